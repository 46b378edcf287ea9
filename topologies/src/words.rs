//! Splits a command line into words as a shell would, without being one: quotes and backslashes, no expansion.

/// The words of `line`. `Err` says what is not closed.
///
/// # Errors
/// A quote without its partner, or a backslash at the end.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a ' is not closed")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a \" is not closed")? {
                        '"' => break,
                        // POSIX shell 2.2.3: inside double quotes a backslash only escapes these.
                        '\\' => match chars.next().ok_or("a \" is not closed")? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next().ok_or("it ends in a backslash")? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_shell_would() {
        for (line, expected) in [
            ("ip link set eth1 up", vec!["ip", "link", "set", "eth1", "up"]),
            ("sh -c 'echo \"a b\"; ls'", vec!["sh", "-c", "echo \"a b\"; ls"]),
            (r#"echo "a \"b\" \n" c\ d"#, vec!["echo", r#"a "b" \n"#, "c d"]),
            ("a''b '' \"\"", vec!["ab", "", ""]),
            ("  ", vec![]),
            ("one\\\n two", vec!["one", "two"]),
        ] {
            assert_eq!(split(line), Ok(expected.into_iter().map(str::to_owned).collect()), "{line}");
        }
        for bad in ["'a", "\"a", "a\\", "\"\\"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
