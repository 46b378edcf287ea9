//! Names of signals, as users write them.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;
use rnet_model::InvalidInput;

/// A signal by number, `TERM` or `SIGTERM`, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalName(pub Signal);

impl SignalName {
    /// The number, 1 to 31.
    pub fn number(self) -> i32 {
        self.0 as i32
    }
}

impl FromStr for SignalName {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let upper = s.to_ascii_uppercase();
        let found = match s.parse::<i32>() {
            Ok(number) => Signal::try_from(number).ok(),
            Err(_) if upper.starts_with("SIG") => upper.parse().ok(),
            Err(_) => format!("SIG{upper}").parse().ok(),
        };
        found
            .map(SignalName)
            .ok_or_else(|| InvalidInput::new("signal", s, "is not one").hint("write TERM, SIGTERM or 15; see kill -l"))
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for same in ["15", "TERM", "term", "SIGTERM", "SigTerm"] {
            assert_eq!(same.parse(), Ok(SignalName(Signal::SIGTERM)), "{same}");
        }
        for bad in ["", "0", "-1", "99", "SIG", "SIGNOPE"] {
            assert!(bad.parse::<SignalName>().is_err(), "{bad}");
        }
    }
}
