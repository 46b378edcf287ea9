//! `rnet-cni`: the multi-call CNI executable. This version answers `VERSION`; every other command is refused in the form
//! the CNI specification asks for: an error object on stdout and a non-zero exit.

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

/// The version of the CNI specification whose error and version objects are written.
const CNI_VERSION: &str = "1.1.0";
/// Largest configuration that is read from stdin, in bytes.
const LIMIT: u64 = 1 << 20;
/// "Invalid necessary environment variables" of the CNI specification, section "Error".
const BAD_ENVIRONMENT: u32 = 4;
/// First code a plugin may give a meaning of its own.
const NOT_IN_THIS_VERSION: u32 = 100;

fn main() -> ExitCode {
    let command = std::env::var("CNI_COMMAND").ok();
    let mut config = Vec::new();
    // VERSION is answered whatever is on stdin; reading it keeps the caller's write from failing.
    let _ = std::io::stdin().lock().take(LIMIT).read_to_end(&mut config);
    let (answer, code) = answer(command.as_deref());
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    code
}

fn answer(command: Option<&str>) -> (Value, ExitCode) {
    let error = |code: u32, msg: String, details: &str| {
        (json!({"cniVersion": CNI_VERSION, "code": code, "msg": msg, "details": details}), ExitCode::FAILURE)
    };
    match command {
        Some("VERSION") => (json!({"cniVersion": CNI_VERSION, "supportedVersions": [CNI_VERSION]}), ExitCode::SUCCESS),
        Some(command @ ("ADD" | "DEL" | "CHECK" | "GC" | "STATUS")) => error(
            NOT_IN_THIS_VERSION,
            format!("{command} is not in this version of rnet-cni"),
            "use rnet attach or rnet hook, which need no CNI configuration",
        ),
        Some(other) => error(BAD_ENVIRONMENT, format!("CNI_COMMAND {other:?} is no CNI command"), ""),
        None => error(BAD_ENVIRONMENT, "CNI_COMMAND is not set".into(), "rnet-cni is called by container runtimes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_answered_and_nothing_else() {
        assert_eq!(answer(Some("VERSION")).0["supportedVersions"], json!([CNI_VERSION]));
        assert_eq!(answer(Some("ADD")).0["code"], NOT_IN_THIS_VERSION);
        assert_eq!(answer(Some("add")).0["code"], BAD_ENVIRONMENT);
        assert_eq!(answer(None).0["code"], BAD_ENVIRONMENT);
    }
}
