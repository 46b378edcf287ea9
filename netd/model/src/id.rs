//! Global ids: ULIDs, so that they stay unique across hosts and sort by age.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::error::{InvalidInput, string_value};

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = concat!("Id of ", $what, ": a ULID in lower case, 26 characters.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        impl $name {
            /// From its 128 bits (48 bits of milliseconds since 1970, 80 random bits).
            pub fn from_bits(bits: u128) -> Self {
                $name(Ulid::from(bits))
            }
            /// The 128 bits.
            pub fn bits(self) -> u128 {
                self.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string().to_ascii_lowercase())
            }
        }

        impl FromStr for $name {
            type Err = InvalidInput;
            fn from_str(s: &str) -> Result<Self, InvalidInput> {
                Ulid::from_string(s)
                    .map($name)
                    .map_err(|e| InvalidInput::new(concat!("id of ", $what), s, e.to_string()))
            }
        }
        string_value!($name, "ULID in lower case");
    };
}

id!(EndpointId, "an endpoint");
id!(NetworkId, "a network");
id!(SandboxId, "a network namespace kept by netd");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id = EndpointId::from_bits(0x0190_0000_0000_0000_0000_0000_0000_0001);
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("no-id".parse::<EndpointId>().is_err());
    }
}
