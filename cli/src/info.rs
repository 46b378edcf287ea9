//! `rnet version`, `openapi`.

use clap::Args;
use rnet_api::ApiError;

use crate::{Context, output};

/// Print the versions of rnet and of the running netd
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {}

/// Print the OpenAPI document of netd's API; needs no daemon
#[derive(Debug, Args)]
pub(crate) struct OpenapiArgs {}

pub(crate) fn version(ctx: &Context) -> Result<u8, ApiError> {
    let client = env!("CARGO_PKG_VERSION");
    let server = ctx.client().version();
    if ctx.json {
        output::json(&serde_json::json!({"client": client, "server": server.as_ref().ok()}))?;
        return server.map(|_| 0);
    }
    output::line(&format!("rnet {client}"))?;
    let server = server?;
    output::line(&format!("netd {} (pid {}, kernel {})", server.version, server.pid, server.kernel))?;
    server.degraded.iter().try_for_each(|d| output::line(&format!("netd is degraded: {d}")))?;
    Ok(0)
}

pub(crate) fn openapi(_ctx: &Context) -> Result<u8, ApiError> {
    output::json(&rnet_api::openapi::document())?;
    Ok(0)
}
