//! Opens an address in the desktop's browser. By a file that leads there: the command line of a program can be read by
//! everybody on the machine, and the address has the token in it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rnet_api::ApiError;
use rnet_model::Kind;

/// The file; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Opened(PathBuf);

impl Drop for Opened {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) fn open(url: &str) -> Result<Opened, ApiError> {
    let fail = |e: std::io::Error| {
        ApiError::new(Kind::Unsupported, "cannot open a browser").because(&e).hint("open the printed address yourself")
    };
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("rnet-ui-{}.html", super::random().map_err(fail)?));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
    let opened = Opened(path);
    write!(file, "<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={url}\">").map_err(fail)?;
    let mut command = Command::new("xdg-open");
    command.arg(&opened.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(fail)?;
    Ok(opened)
}
