//! `rnet hook`.

use clap::Subcommand;
use rnet_api::ApiError;

use crate::Context;

#[derive(Debug, Subcommand)]
pub(crate) enum HookCommand {}

pub(crate) fn dispatch(command: HookCommand, _ctx: &Context) -> Result<u8, ApiError> {
    match command {}
}
