//! `rnet-cni`: every CNI plugin of rnet in one executable.
//!
//! A container runtime calls it by the name of a plugin, through a link, or as `rnet-cni` with the plugin in `type`. By
//! hand it makes those links. Standard output carries the answer alone; words go to standard error.

mod call;
mod install;
mod rnet;

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use rnet_plugin_protocol::{Command, Environment, Error, LIMIT, Version};
use rnet_plugins_builtin::dhcp;
use rustix::event::{PollFd, PollFlags};
use serde_json::{Value, json};

/// The executable's own name: under it, the plugin is the `type` of the configuration.
const NAME: &str = "rnet-cni";

/// Every `type` there is: the plugins that need nobody, and the one that hands over to netd.
fn names() -> impl Iterator<Item = &'static str> {
    rnet_plugins_builtin::names().chain([rnet::NAME])
}

fn main() -> ExitCode {
    if let Some(code) = dhcp::keep_if_asked() {
        return code;
    }
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called).file_name().and_then(|n| n.to_str()).unwrap_or(NAME).to_owned();
    let variable = |name: &str| std::env::var(name).ok();
    match Environment::read(variable) {
        Ok(None) if called == NAME => install::main(),
        Ok(None) => {
            eprintln!("{called}: CNI plugin of rnet {}", env!("CARGO_PKG_VERSION"));
            eprintln!("CNI protocol versions supported: {}", Version::ALL.map(Version::as_str).join(", "));
            ExitCode::SUCCESS
        }
        Ok(Some(environment)) => {
            let mut input = Vec::new();
            let read = if environment.command == Command::Version {
                read_what_comes(&mut input)
            } else {
                std::io::stdin().lock().take(LIMIT + 1).read_to_end(&mut input)
            };
            let answer = match read {
                Err(e) => Err(Error::io("read the configuration from stdin", &e)),
                Ok(_) if input.len() as u64 > LIMIT => {
                    Err(Error::new(Error::DECODING_FAILURE, format!("the configuration is longer than {LIMIT} bytes")))
                }
                Ok(_) => call::answer(&called, &environment, &input),
            };
            write(answer, version_of(&input))
        }
        Err(error) => write(Err(error), Version::NEWEST),
    }
}

/// VERSION needs no configuration: whoever gives none, and keeps standard input open, is answered all the same.
fn read_what_comes(input: &mut Vec<u8>) -> std::io::Result<usize> {
    const PATIENCE: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    let stdin = std::io::stdin();
    let mut piece = [0; 4096];
    while input.len() as u64 <= LIMIT {
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        if rustix::event::poll(&mut ready, Some(&PATIENCE))? == 0 {
            break;
        }
        match rustix::io::read(&stdin, &mut piece)? {
            0 => break,
            length => input.extend_from_slice(&piece[..length]),
        }
    }
    Ok(input.len())
}

/// The version an error is answered in, of a configuration that may be anything.
fn version_of(input: &[u8]) -> Version {
    let value: Value = serde_json::from_slice(input).unwrap_or_default();
    value.get("cniVersion").and_then(Value::as_str).and_then(|v| v.parse().ok()).unwrap_or(Version::NEWEST)
}

fn write(answer: Result<Option<Value>, Error>, version: Version) -> ExitCode {
    let (value, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => {
            let mut value = json!(error);
            value["cniVersion"] = json!(version.as_str());
            (value, ExitCode::FAILURE)
        }
    };
    let mut text = serde_json::to_vec_pretty(&value).expect("a JSON value can be written");
    text.push(b'\n');
    // At once: a value written piece by piece is a system call for each line.
    let mut out = std::io::stdout().lock();
    if out.write_all(&text).and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    code
}
