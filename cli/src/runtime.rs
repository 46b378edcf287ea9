//! The commands of the slim runtime.

use rnet_api::ApiError;

use crate::Context;

/// Commands of the slim runtime.
#[derive(Debug, clap::Subcommand)]
pub enum RuntimeCommand {}

/// Runs one.
///
/// # Errors
/// What the command says.
pub fn dispatch(command: RuntimeCommand, _ctx: &Context) -> Result<u8, ApiError> {
    match command {}
}
