//! `rnet-gen DIR`: man pages and shell completions, made from the definitions of the command lines.
//!
//! Writes `DIR/man/man1/rnet*.1`, `DIR/man/man8/netd.8` and `DIR/completions/{bash,zsh,fish}/...`. Nothing of it is
//! kept in the repository: `make install` makes it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, Parser};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// Write man pages and shell completions of rnet and netd
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where to
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let dir = Args::parse().dir;
    let man = dir.join("man");
    pages(&rnet_cli::command(), "1", &make(&man.join("man1"))?)?;
    pages(&netd::command(), "8", &make(&man.join("man8"))?)?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let folder = make(&dir.join("completions").join(name))?;
        let written = generate_to(shell, &mut rnet_cli::command(), "rnet", &folder)
            .with_context(|| format!("cannot write the completions for {name}"))?;
        // bash-completion(7) looks a file up by the name of the command alone.
        if shell == Shell::Bash {
            std::fs::rename(&written, folder.join("rnet"))?;
        }
    }
    Ok(())
}

/// One page for the command and one for each of its subcommands, as git and docker do.
fn pages(command: &Command, section: &str, folder: &Path) -> anyhow::Result<()> {
    let mut command = command.clone();
    // Global options and usage lines are filled in when a command is built.
    command.build();
    write_pages(&command, section, folder)
}

fn write_pages(command: &Command, section: &str, folder: &Path) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
    let path = folder.join(format!("{name}.{section}"));
    let mut text = Vec::new();
    let page = Man::new(command.clone()).title(name.to_uppercase()).section(section).manual("rnet");
    page.render(&mut text)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| write_pages(c, section, folder))
}

fn make(folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_it() -> anyhow::Result<()> {
        let dir = std::env::temp_dir().join(format!("rnet-gen-{}", std::process::id()));
        let folder = make(&dir)?;
        pages(&rnet_cli::command(), "1", &folder)?;
        for name in ["rnet", "rnet-attach", "rnet-network-create", "rnet-bridge-create", "rnet-lab-deploy"] {
            let page = std::fs::read_to_string(folder.join(format!("{name}.1")))?;
            assert!(page.contains(&name.replace('-', " ").replace("rnet ", "")) || name == "rnet", "{name}");
            assert!(page.contains(".SH OPTIONS"), "{name} has no options");
        }
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
