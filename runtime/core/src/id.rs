//! Ids of containers.

use std::fmt;
use std::str::FromStr;

use rnet_api::ApiError;
use rnet_model::{ContainerName, InvalidInput, Kind};
use serde::{Deserialize, Serialize};

/// 128 random bits as 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Length in bytes.
    pub const LEN: usize = 32;
    /// Length of the short form that tables show and that is the default hostname.
    pub const SHORT: usize = 12;

    /// A new one from the kernel's random numbers.
    ///
    /// # Errors
    /// When the kernel has none (getrandom(2)).
    pub fn random() -> Result<Self, ApiError> {
        let mut bytes = [0u8; Self::LEN / 2];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| ApiError::new(Kind::Retry, "the kernel gave no random numbers").because(&e))?;
        // getrandom(2): requests up to 256 bytes are never cut short once the pool is ready.
        debug_assert_eq!(got, bytes.len());
        Ok(ContainerId(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits.
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORT]
    }

    /// The same as netd's kind of name.
    pub fn name(&self) -> ContainerName {
        self.0.parse().expect("hexadecimal digits are a container name")
    }
}

impl FromStr for ContainerId {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let digits = s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if s.len() != Self::LEN || !digits {
            return Err(InvalidInput::new("container id", s, "is not 32 lower-case hexadecimal digits"));
        }
        Ok(ContainerId(s.to_owned()))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidInput;
    fn try_from(s: String) -> Result<Self, InvalidInput> {
        s.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = ContainerId::random().unwrap();
        assert_ne!(id, ContainerId::random().unwrap());
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(id.short().len(), 12);
        for bad in ["", "../x", "0123", "ABCDEF0123456789ABCDEF0123456789", "0123456789abcdef0123456789abcde/"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
