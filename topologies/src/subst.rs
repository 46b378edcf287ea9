//! `${VAR}` substitution in the text of a topology file, before it is read as YAML.
//!
//! The forms and the outcome for an unset variable are containerlab's: `${v}`, `${v:-d}`, `${v-d}`, `${v:=d}`, `${v=d}`,
//! `${v:+o}`, `${v+o}` and `$$` for a dollar sign; an unset variable without a default stays as it is written, so that
//! shell text in `exec:` survives. `$v` without braces is not a substitution.

use crate::error::{At, Place, TopologyError};

/// Deepest nesting of a default inside a default.
const DEPTH: usize = 16;

/// What each operator does: the operator's text, and the choice it makes.
const OPERATORS: [(&str, Choice); 6] = [
    (":-", Choice::DefaultIfEmpty),
    (":=", Choice::DefaultIfEmpty),
    (":+", Choice::OtherIfFull),
    ("-", Choice::DefaultIfUnset),
    ("=", Choice::DefaultIfUnset),
    ("+", Choice::OtherIfSet),
];

#[derive(Clone, Copy)]
enum Choice {
    DefaultIfEmpty,
    DefaultIfUnset,
    OtherIfFull,
    OtherIfSet,
}

/// Replaces the variables in `text` by what `lookup` knows.
///
/// # Errors
/// `${` without `}`, a name that is none, an unknown operator, or defaults nested deeper than 16.
pub(crate) fn substitute(
    text: &str,
    at: At<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, TopologyError> {
    expand(text, lookup, DEPTH).map_err(|bad| {
        let before = &text[..bad.offset.min(text.len())];
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        at.place(Some(Place { line, column })).syntax(bad.reason)
    })
}

struct Bad {
    offset: usize,
    reason: String,
}

fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, Bad> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = text[at..].find('$').map(|i| at + i) {
        out.push_str(&text[at..found]);
        let rest = &text[found + 1..];
        if rest.starts_with('$') {
            out.push('$');
            at = found + 2;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let bad = |reason: String| Bad { offset: found, reason };
            let length = closing(inner).ok_or_else(|| bad("\"${\" has no \"}\"".to_owned()))?;
            if depth == 0 {
                return Err(bad(format!("defaults are nested deeper than {DEPTH}")));
            }
            let value = one(&inner[..length], lookup, depth - 1).map_err(|e| bad(e.reason))?;
            at = found + 2 + length + 1;
            match value {
                Some(value) => out.push_str(&value),
                None => out.push_str(&text[found..at]),
            }
        } else {
            out.push('$');
            at = found + 1;
        }
    }
    out.push_str(&text[at..]);
    Ok(out)
}

/// Length of the text before the `}` that closes; inner `${...}` are skipped.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut open = 0usize;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'$' if bytes.get(i + 1) == Some(&b'{') => {
                open += 1;
                i += 1;
            }
            b'}' if open == 0 => return Some(i),
            b'}' => open -= 1,
            _ => {}
        }
        i += 1;
    }
    None
}

/// The value of what is inside the braces; `None`: it stays as written.
fn one(inner: &str, lookup: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<Option<String>, Bad> {
    let bad = |reason: String| Bad { offset: 0, reason };
    let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
    let (name, operation) = inner.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad(format!("${{{inner}}}: {name:?} is not the name of a variable")));
    }
    let value = lookup(name);
    if operation.is_empty() {
        return Ok(value);
    }
    let (choice, word) = OPERATORS
        .iter()
        .find_map(|(text, choice)| operation.strip_prefix(text).map(|word| (*choice, word)))
        .ok_or_else(|| bad(format!("${{{inner}}}: unknown operation {operation:?}; known are :- - := = :+ +")))?;
    let word = || expand(word, lookup, depth);
    let filled = value.as_deref().is_some_and(|v| !v.is_empty());
    Ok(Some(match (choice, value) {
        (Choice::DefaultIfEmpty, Some(v)) if filled => v,
        (Choice::DefaultIfUnset, Some(v)) => v,
        (Choice::DefaultIfEmpty | Choice::DefaultIfUnset, _) => word()?,
        (Choice::OtherIfFull, _) if filled => word()?,
        (Choice::OtherIfSet, Some(_)) => word()?,
        (Choice::OtherIfFull | Choice::OtherIfSet, _) => String::new(),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn run(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        substitute(text, At::file(Path::new("f")), &lookup).map_err(|e| e.to_string())
    }

    #[test]
    fn forms() {
        for (text, expected) in [
            ("a ${SET} b", "a value b"),
            ("${UNSET}", "${UNSET}"),
            ("${UNSET:-d} ${EMPTY:-d} ${EMPTY-d} ${SET:-d}", "d d  value"),
            ("${UNSET:=d} ${UNSET=d}", "d d"),
            ("${SET:+o} ${EMPTY:+o} ${EMPTY+o} ${UNSET+o}", "o  o "),
            ("${UNSET:-${SET}}", "value"),
            ("${UNSET:-${ALSO:-deep}}", "deep"),
            ("$$ $${SET} $SET $(date) $", "$ ${SET} $SET $(date) $"),
            ("ümlaut ${SET} ü", "ümlaut value ü"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_have_a_place() {
        assert_eq!(run("a\n  ${SET").unwrap_err(), "f:2:3: \"${\" has no \"}\"");
        assert!(run("${1}").unwrap_err().contains("not the name of a variable"));
        assert!(run("${SET?x}").unwrap_err().contains("unknown operation"));
        let deep = format!("{}x{}", "${U:-".repeat(40), "}".repeat(40));
        assert!(run(&deep).unwrap_err().contains("nested deeper"));
    }
}
