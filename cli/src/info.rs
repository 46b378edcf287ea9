//! `rnet events`, `version`, `openapi`.

use clap::Args;
use rnet_api::{ApiError, Event};
use rnet_model::Kind;

use crate::{Context, output};

/// Print events as they happen, until interrupted
#[derive(Debug, Args)]
#[command(after_help = "With --json each event is one JSON object on one line.")]
pub(crate) struct EventsArgs {}

/// Print the versions of rnet and of the running netd
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {}

/// Print the OpenAPI document of netd's API; needs no daemon
#[derive(Debug, Args)]
pub(crate) struct OpenapiArgs {}

pub(crate) fn events(ctx: &Context) -> Result<u8, ApiError> {
    for event in ctx.client().events()? {
        let event = event?;
        if ctx.json {
            let line = serde_json::to_string(&event)
                .map_err(|e| ApiError::new(Kind::Bug, "cannot encode an event").because(&e))?;
            output::text(&format!("{line}\n"))?;
        } else {
            output::line(&event_line(&event))?;
        }
    }
    Err(ApiError::new(Kind::Unavailable, "netd ended").hint(format!("start it: {}", ctx.root.start_command())))
}

fn event_line(event: &Event) -> String {
    let mut out = format!("{} {} {}", event.time, event.action, event.subject);
    for (key, value) in &event.attributes {
        out.push_str(&format!(" {key}={value}"));
    }
    out
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            time: "2026-01-02T03:04:05Z".into(),
            action: "attach".into(),
            subject: "web".into(),
            attributes: [("ifname".into(), "eth0".into()), ("id".into(), "01".into())].into(),
        };
        assert_eq!(event_line(&event), "2026-01-02T03:04:05Z attach web id=01 ifname=eth0");
    }
}
