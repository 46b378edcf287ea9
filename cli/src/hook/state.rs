//! The state an OCI runtime gives to its hooks on stdin (OCI runtime specification, "State").

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_api::ApiError;
use rnet_model::Kind;
use serde::Deserialize;

/// Largest state in bytes that is read. Annotations are the only part without a natural bound; Kubernetes limits all of
/// them together to 256 KiB.
pub(super) const LIMIT: usize = 1024 * 1024;

/// What the hook needs of it. Other members are of no interest; new versions of the specification may add some.
#[derive(Debug, Deserialize)]
pub(super) struct State {
    /// Id of the container, unique on this host within the runtime.
    pub(super) id: String,
    /// Process id of the container's first process, seen from the runtime; absent once it has ended.
    #[serde(default)]
    pub(super) pid: Option<u32>,
    /// Free-form.
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl State {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(bytes).map_err(|e| {
            ApiError::new(Kind::Invalid, "stdin is not the state of an OCI container")
                .because(&e)
                .hint("this command is called by an OCI runtime; see: rnet hook install --help")
        })
    }
}

/// Reads all of `input`: at most [`LIMIT`] bytes, until `deadline`.
pub(super) fn read(input: &mut (impl Read + AsFd), deadline: Instant) -> Result<Vec<u8>, ApiError> {
    let failed = |e: &io::Error| ApiError::new(Kind::Retry, "cannot read the container's state from stdin").because(e);
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                return Err(ApiError::new(Kind::Retry, "the container's state did not arrive on stdin in time")
                    .hint("this command is called by an OCI runtime; see: rnet hook install --help"));
            }
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(failed(&e.into())),
        }
        match input.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(&e)),
        }
        if bytes.len() > LIMIT {
            let text = format!("the container's state on stdin is larger than {LIMIT} bytes");
            return Err(ApiError::new(Kind::Invalid, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::time::Duration;

    #[test]
    fn what_runtimes_write() {
        let state = State::parse(
            br#"{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":42,"bundle":"/b",
                 "annotations":{"rnet.network":"blue"}}"#,
        )
        .unwrap();
        assert_eq!((state.id.as_str(), state.pid), ("c1", Some(42)));
        assert_eq!(state.annotations.unwrap()["rnet.network"], "blue");
        let state = State::parse(br#"{"ociVersion":"1.0.2","id":"c1","status":"stopped","bundle":"/b"}"#).unwrap();
        assert!(state.pid.is_none() && state.annotations.is_none());
        for bad in [&b""[..], b"{}", b"[]", b"null", b"{\"id\":1}", b"{\"id\":\"x\",\"pid\":-1}", b"\xff"] {
            assert_eq!(State::parse(bad).unwrap_err().kind, Kind::Invalid);
        }
    }

    #[test]
    fn reading_is_bounded_in_time_and_size() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = File::from(reader);
        let silent = read(&mut reader, Instant::now() + Duration::from_millis(10)).unwrap_err();
        assert_eq!(silent.kind, Kind::Retry);
        let feeder = std::thread::spawn(move || {
            let mut writer = File::from(writer);
            while writer.write_all(&[b' '; 4096]).is_ok() {}
        });
        let endless = read(&mut reader, Instant::now() + Duration::from_secs(10)).unwrap_err();
        assert_eq!(endless.kind, Kind::Invalid);
        drop(reader);
        feeder.join().unwrap();
    }
}
