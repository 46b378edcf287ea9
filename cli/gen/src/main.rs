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
    let text = page(command, &name, section)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| write_pages(c, section, folder))
}

fn page(command: &Command, name: &str, section: &str) -> anyhow::Result<Vec<u8>> {
    let notes = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    let bare = command.clone().after_help("").after_long_help("");
    let page = Man::new(bare).title(name.to_uppercase()).section(section).manual("rnet");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    text.extend(roff_of(notes.as_deref().unwrap_or_default()).into_bytes());
    Ok(text)
}

/// What stands below the options of `--help`, as sections of man-pages(7). A line that ends in a colon begins one; what
/// is indented below it keeps its lines.
fn roff_of(notes: &str) -> String {
    let escaped = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    };
    let mut out = String::new();
    for block in notes.split("\n\n").filter(|b| !b.trim().is_empty()) {
        let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
        let heading = first.strip_suffix(':').filter(|_| !rest.is_empty());
        let (title, body) = match heading {
            Some("Examples") => ("EXAMPLES", rest),
            Some("Exit codes") => ("EXIT STATUS", rest),
            Some(other) => (other, rest),
            None => ("NOTES", block),
        };
        let keeps_lines = heading.is_some();
        out.push_str(&format!(".SH \"{}\"\n", escaped(&title.to_uppercase())));
        out.push_str(if keeps_lines { ".nf\n" } else { "" });
        for line in body.lines() {
            let line = line.strip_prefix("  ").unwrap_or(line);
            out.push_str(&format!("{}\n", escaped(line)));
        }
        out.push_str(if keeps_lines { ".fi\n" } else { "" });
    }
    out
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

    #[test]
    fn examples_keep_their_lines() {
        let notes = "A remark\nof two lines.\n\nExamples:\n  rnet x -y   do it\n  .hidden\n\nExit codes:\n  0 done";
        let expected = ".SH \"NOTES\"\nA remark\nof two lines.\n.SH \"EXAMPLES\"\n.nf\nrnet x \\-y   do it\n\\&.hidden\n.fi\n\
                        .SH \"EXIT STATUS\"\n.nf\n0 done\n.fi\n";
        assert_eq!(roff_of(notes), expected);
    }
}
