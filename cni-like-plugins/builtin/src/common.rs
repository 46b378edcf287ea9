//! What the plugins that make interfaces have in common.

use rnet_model::IfName;

/// A name known to be one.
pub(crate) fn name(text: &str) -> IfName {
    text.parse().expect("a name written in this crate is one")
}
