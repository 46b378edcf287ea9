//! How results look: plain columns, JSON, one-line errors. Colour only for states, on a terminal ([`crate::paint`]).

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::{Table, presets};
use rnet_api::{ApiError, Endpoint, Status};
use rnet_model::Kind;
use serde::Serialize;

use crate::paint;

/// Exit code of a process that SIGPIPE ended, as shells show it.
const SIGPIPE: i32 = 128 + 13;

/// Prints text to stdout as it is.
///
/// A reader that has gone ends the process as SIGPIPE would (Rust's runtime ignores that signal): the work is done by
/// the time anything is printed, and nobody is left to read an error.
///
/// # Errors
/// When stdout cannot be written (a full disk).
pub fn text(text: &str) -> Result<(), ApiError> {
    bytes(text.as_bytes())
}

/// Prints bytes to stdout as they are.
///
/// # Errors
/// As [`text`].
pub fn bytes(bytes: &[u8]) -> Result<(), ApiError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(SIGPIPE),
        Err(e) => Err(ApiError::new(Kind::Retry, "cannot write the output").because(&e)),
    }
}

/// Prints one line. Control characters are escaped: names and labels come from outside.
///
/// # Errors
/// As [`text`].
pub fn line(content: &str) -> Result<(), ApiError> {
    text(&format!("{}\n", clean(content)))
}

/// Prints one value as indented JSON.
///
/// # Errors
/// As [`text`].
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), ApiError> {
    let body = serde_json::to_string_pretty(value)
        .map_err(|e| ApiError::new(Kind::Bug, "cannot encode the output").because(&e))?;
    text(&format!("{body}\n"))
}

/// Prints one value as JSON on one line.
///
/// # Errors
/// As [`text`].
pub fn json_line<T: Serialize + ?Sized>(value: &T) -> Result<(), ApiError> {
    let body =
        serde_json::to_string(value).map_err(|e| ApiError::new(Kind::Bug, "cannot encode the output").because(&e))?;
    text(&format!("{body}\n"))
}

/// Prints rows under headers, or nothing but the headers. On a terminal a column STATUS or STATE is coloured.
///
/// # Errors
/// As [`text`].
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> Result<(), ApiError> {
    let plain = render_table(headers, rows);
    let state = headers.iter().find(|h| matches!(**h, "STATUS" | "STATE")).filter(|_| paint::wanted(&io::stdout()));
    // Columns are apart by two spaces: a header stands where its column begins.
    match state.and_then(|header| plain.find(&format!("  {header}"))) {
        Some(at) => text(&paint::column(&plain, at + 2)),
        None => text(&plain),
    }
}

/// Columns separated by two spaces, without lines and without spaces at the ends of lines.
pub fn render_table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headers.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| match cell.is_empty() {
            true => Cow::Borrowed("-"),
            false => clean(cell),
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Control characters as escapes, so that text from outside cannot drive the terminal.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|c| {
                let escaped = c.is_control().then(|| c.escape_default());
                let plain = escaped.is_none().then_some(c);
                escaped.into_iter().flatten().chain(plain)
            })
            .collect::<String>()
            .into()
    } else {
        text.into()
    }
}

/// The lines of an error, for stderr.
pub fn render_error(error: &ApiError) -> String {
    let mut out = format!("error: {}\n", clean(&error.chain()));
    if let Some(hint) = &error.hint {
        out.push_str(&format!("hint: {}\n", clean(hint)));
    }
    out
}

pub(crate) fn error_lines(error: &ApiError) {
    // Nothing can be done about a closed stderr.
    let _ = io::stderr().lock().write_all(render_error(error).as_bytes());
}

/// Prints a remark to stderr, so that stdout stays machine readable.
pub fn remark(content: &str) {
    // As above.
    let _ = io::stderr().lock().write_all(format!("{}\n", clean(content)).as_bytes());
}

/// `a, b`, or nothing.
pub fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

/// The container of an endpoint as a word that a command takes: a bare number would be no process.
pub fn container(e: &Endpoint) -> String {
    match e.engine {
        rnet_model::Engine::Pid => format!("pid:{}", e.container),
        _ => e.container.to_string(),
    }
}

/// One endpoint on one line.
pub fn endpoint_line(e: &Endpoint) -> String {
    let mut out = format!("{} {}:", container(e), e.ifname);
    out.push(' ');
    out.push_str(&if e.addresses.is_empty() { "no address".to_owned() } else { list(&e.addresses) });
    if !e.gateways.is_empty() {
        out.push_str(&format!(" via {}", list(&e.gateways)));
    }
    if let Some(mac) = e.mac {
        out.push_str(&format!(", MAC {mac}"));
    }
    match (&e.network, &e.bridge) {
        (Some(network), _) => out.push_str(&format!(", network {network}")),
        (None, Some(bridge)) => out.push_str(&format!(", bridge {bridge}")),
        (None, None) => {}
    }
    out
}

/// A status in a word or two.
pub fn status(status: &Status) -> String {
    match status {
        Status::Pending => "pending".into(),
        Status::Ready => "ready".into(),
        Status::Error { since, text } => format!("error since {since}: {text}"),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let rows = vec![vec!["web".into(), "10.0.0.2/24".into()], vec!["a-longer-name".into(), String::new()]];
        let expected = "NAME           ADDRESS\nweb            10.0.0.2/24\na-longer-name  -\n";
        assert_eq!(render_table(&["NAME", "ADDRESS"], &rows), expected);
        assert_eq!(render_table(&["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn outside_text_cannot_drive_the_terminal() {
        assert_eq!(clean("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert!(matches!(clean("plain"), Cow::Borrowed(_)));
        let error = ApiError::new(Kind::Bug, "a\rb").hint("c\u{7}");
        assert_eq!(render_error(&error), "error: a\\rb\nhint: c\\u{7}\n");
    }

    #[test]
    fn errors_are_one_line_and_a_hint() {
        let error = ApiError {
            kind: Kind::Missing,
            message: "cannot attach web".into(),
            causes: vec!["no such container".into()],
            hint: Some("rnet ps lists them".into()),
        };
        assert_eq!(render_error(&error), "error: cannot attach web: no such container\nhint: rnet ps lists them\n");
    }
}
