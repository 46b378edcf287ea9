//! `rnet-cni` by hand: the links under which runtimes call it.

#![allow(clippy::print_stdout, reason = "a command of the terminal")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::names;

/// CNI plugins of rnet, all in this one executable
///
/// Container runtimes call it through links named like the plugins, which "install" makes, or as rnet-cni with the
/// plugin's name in "type" of the configuration.
#[derive(Debug, Parser)]
#[command(name = "rnet-cni", version)]
struct Words {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a link to this executable for each plugin
    Install {
        /// Folder of the links
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        dir: PathBuf,
        /// Put aside what is there under these names, as NAME.before-rnet
        #[arg(long)]
        force: bool,
    },
    /// Remove the links, and put back what install put aside
    Uninstall {
        /// Folder of the links
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        dir: PathBuf,
    },
    /// Name the plugins
    List,
}

pub(crate) fn main() -> ExitCode {
    let done = match Words::parse().command {
        Verb::Install { dir, force } => own_path().and_then(|own| install(&own, &dir, force)),
        Verb::Uninstall { dir } => own_path().and_then(|own| uninstall(&own, &dir)),
        Verb::List => Ok(names().map(str::to_owned).collect()),
    };
    match done {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn own_path() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("cannot tell where rnet-cni is: {e}"))
}

/// What is in the way of a link.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    /// A link to `own` already.
    Ours,
    Foreign,
}

fn there(link: &Path, own: &Path) -> Result<There, String> {
    match fs::symlink_metadata(link) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(There::Nothing),
        Err(e) => Err(format!("cannot look at {}: {e}", link.display())),
        Ok(meta) if meta.is_symlink() => {
            let target = fs::read_link(link).unwrap_or_default();
            let target = link.parent().unwrap_or_else(|| Path::new("/")).join(target);
            // Also one that leads to where rnet-cni was before it was moved.
            let same = target.file_name() == own.file_name() || fs::canonicalize(&target).is_ok_and(|t| t == own);
            Ok(if same { There::Ours } else { There::Foreign })
        }
        Ok(_) => Ok(There::Foreign),
    }
}

fn aside(link: &Path) -> PathBuf {
    let mut name = link.as_os_str().to_owned();
    name.push(".before-rnet");
    PathBuf::from(name)
}

fn listed(paths: &[PathBuf]) -> String {
    let all: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    all.join(", ")
}

/// What is in the way is looked for before anything is changed.
fn install(own: &Path, dir: &Path, force: bool) -> Result<Vec<String>, String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let links: Vec<PathBuf> = names().map(|name| dir.join(name)).filter(|link| link != own).collect();
    let mut foreign = Vec::new();
    for link in &links {
        if there(link, own)? == There::Foreign {
            foreign.push(link.clone());
        }
    }
    if !foreign.is_empty() && !force {
        return Err(format!(
            "not rnet's, and in the way: {}; nothing was changed\nhint: --force puts aside what is there (uninstall brings \
             it back)",
            listed(&foreign)
        ));
    }
    let taken: Vec<PathBuf> =
        foreign.iter().map(|link| aside(link)).filter(|p| fs::symlink_metadata(p).is_ok()).collect();
    if !taken.is_empty() {
        return Err(format!(
            "something was put aside before and is still there: {}; nothing was changed\nhint: remove or rename those first",
            listed(&taken)
        ));
    }
    let mut lines = Vec::new();
    for link in &links {
        let is_foreign = foreign.contains(link);
        if !is_foreign && fs::read_link(link).is_ok_and(|target| target == own) {
            continue;
        }
        if is_foreign {
            fs::rename(link, aside(link)).map_err(|e| format!("cannot put {} aside: {e}", link.display()))?;
        }
        // By way of another name: a runtime that calls meanwhile finds a whole link.
        let fresh = dir.join(".rnet-cni.new");
        let _ = fs::remove_file(&fresh);
        symlink(own, &fresh)
            .and_then(|()| fs::rename(&fresh, link))
            .map_err(|e| format!("cannot make {}: {e}", link.display()))?;
        let note = if is_foreign { format!(" (the former one is {})", aside(link).display()) } else { String::new() };
        lines.push(format!("{} -> {}{note}", link.display(), own.display()));
    }
    if lines.is_empty() {
        lines.push(format!("all {} links are in {} already", links.len(), dir.display()));
    }
    Ok(lines)
}

fn uninstall(own: &Path, dir: &Path) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for link in names().map(|name| dir.join(name)).filter(|link| link != own) {
        if there(&link, own)? != There::Ours {
            continue;
        }
        let fail = |e: std::io::Error| format!("cannot remove {}: {e}", link.display());
        if aside(&link).exists() {
            fs::rename(aside(&link), &link).map_err(fail)?;
            lines.push(format!("{} is what it was before", link.display()));
        } else {
            fs::remove_file(&link).map_err(fail)?;
            lines.push(format!("removed {}", link.display()));
        }
    }
    if lines.is_empty() {
        lines.push(format!("no links of rnet-cni in {}", dir.display()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_are_made_and_removed_and_foreign_files_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (own, dir) = (temp.path().join("rnet-cni"), temp.path().join("bin"));
        fs::write(&own, "us").unwrap();
        fs::create_dir(&dir).unwrap();
        let foreign = dir.join("static");
        fs::write(&foreign, "theirs").unwrap();
        let error = install(&own, &dir, false).unwrap_err();
        assert!(error.contains("not rnet's, and in the way") && error.contains("static"), "{error}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing was changed");

        install(&own, &dir, true).unwrap();
        install(&own, &dir, true).unwrap();
        for name in names() {
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "us", "{name}");
        }
        uninstall(&own, &dir).unwrap();
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        uninstall(&own, &dir).unwrap();
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "theirs", "not ours to remove");

        // A second time, with something new in the way of what was put aside.
        install(&own, &dir, true).unwrap();
        fs::remove_file(&foreign).unwrap();
        fs::write(&foreign, "newer").unwrap();
        let error = install(&own, &dir, true).unwrap_err();
        assert!(error.contains("static.before-rnet"), "{error}");
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "newer");

        // The executable has been moved.
        fs::remove_file(&foreign).unwrap();
        let moved = temp.path().join("elsewhere").join("rnet-cni");
        fs::create_dir(temp.path().join("elsewhere")).unwrap();
        fs::rename(&own, &moved).unwrap();
        install(&moved, &dir, false).unwrap();
        assert_eq!(fs::read_to_string(dir.join("bridge")).unwrap(), "us");
        uninstall(&moved, &dir).unwrap();
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "theirs");
    }
}
