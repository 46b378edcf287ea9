//! Colour: only on a terminal, only for words that say a state, never where NO_COLOR says no (no-color.org).

use std::io::IsTerminal;

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const DIM: &str = "2";

/// Whether a stream shows colours.
pub(crate) fn wanted(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The colour of a word that says how something is or what happened; none for a word that says neither.
fn of(word: &str) -> Option<&'static str> {
    match word {
        "ready" | "running" | "live" | "up" | "ok" | "passed" | "attach" | "publish" | "network-create" => Some(GREEN),
        "pending" | "created" | "reserved" | "resting" | "paused" | "warning" | "repair" | "overrun" => Some(YELLOW),
        "error" | "dead" | "down" | "failed" | "conflict" | "closed" | "lost" => Some(RED),
        "exited" | "detach" | "unpublish" | "network-rm" | "unknown" => Some(DIM),
        _ => None,
    }
}

/// A text in the colour of its first word.
pub(crate) fn state(text: &str) -> String {
    let word = text.split([' ', ':']).next().unwrap_or_default();
    match of(word) {
        Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
        None => text.to_owned(),
    }
}

/// Colours what stands in one column of a rendered table, which begins at a character of each line and ends before two
/// spaces.
pub(crate) fn column(table: &str, begin: usize) -> String {
    let mut out = String::with_capacity(table.len() + 128);
    for (number, line) in table.split_inclusive('\n').enumerate() {
        let at = line.char_indices().nth(begin).map(|(at, _)| at);
        let Some((before, rest)) = at.filter(|_| number > 0).map(|at| line.split_at(at)) else {
            out.push_str(line);
            continue;
        };
        let end = rest.find("  ").unwrap_or_else(|| rest.trim_end().len());
        let (cell, after) = rest.split_at(end);
        out.push_str(before);
        out.push_str(&state(cell));
        out.push_str(after);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_colours_and_names_have_none() {
        assert_eq!(state("ready"), "\x1b[32mready\x1b[0m");
        assert_eq!(state("error since 1: it broke"), "\x1b[31merror since 1: it broke\x1b[0m");
        assert_eq!(state("web"), "web");
    }

    #[test]
    fn only_the_column_is_coloured() {
        let table = "NAME   STATUS   ID\nready  pending  1\nweb    x        2\n";
        let expected = "NAME   STATUS   ID\nready  \x1b[33mpending\x1b[0m  1\nweb    x        2\n";
        assert_eq!(column(table, 7), expected);
        assert_eq!(column("A  STATE\nx  live\n", 3), "A  STATE\nx  \x1b[32mlive\x1b[0m\n");
    }
}
