//! `rnet bridge`.

use clap::{Args, Subcommand};
use rnet_api::{ApiError, Bridge, BridgeRequest};
use rnet_model::{IfAddr, IfName};

use crate::{Context, output};

#[derive(Debug, Subcommand)]
pub(crate) enum BridgeCommand {
    Create(CreateArgs),
    /// List the bridges that netd made or uses
    Ls,
    /// Remove a bridge that netd made; its uplink gets its addresses and routes back
    Rm {
        /// Name of the bridge
        #[arg(value_name = "NAME")]
        name: IfName,
    },
}

/// Create a bridge, alone or with one of the host's NICs in it
///
/// With --uplink the NIC's addresses and routes move onto the bridge, so that the host stays reachable and containers
/// attached to the bridge are in the NIC's LAN. `rnet bridge rm` moves them back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet bridge create br0 --uplink eth0
  rnet bridge create br1 --addr 192.168.115.1/24")]
pub(crate) struct CreateArgs {
    /// Name of the bridge, 1 to 15 bytes
    #[arg(value_name = "NAME")]
    name: IfName,

    /// NIC to put into the bridge [default: none]
    #[arg(long, value_name = "IF")]
    uplink: Option<IfName>,

    /// Address of the bridge itself: IP/PREFIX; repeatable [default: none, or those of the uplink]
    #[arg(long = "addr", value_name = "IP/PREFIX")]
    addresses: Vec<IfAddr>,

    /// MTU in bytes [default: the uplink's, else 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,

    /// Keep VLANs apart on the bridge (not in this version)
    #[arg(long)]
    vlan_filtering: bool,
}

pub(crate) fn dispatch(command: BridgeCommand, ctx: &Context) -> Result<u8, ApiError> {
    let client = ctx.client();
    match command {
        BridgeCommand::Create(args) => {
            let bridge = client.create_bridge(&BridgeRequest {
                name: args.name,
                uplink: args.uplink,
                vlan_filtering: args.vlan_filtering,
                addresses: args.addresses,
                mtu: args.mtu,
            })?;
            print(&bridge, &bridge_line(&bridge), ctx)?;
        }
        BridgeCommand::Rm { name } => {
            let bridge = client.remove_bridge(&name)?;
            print(&bridge, &format!("{}: removed", bridge.name), ctx)?;
        }
        BridgeCommand::Ls => {
            let all = client.bridges()?;
            if ctx.json {
                output::json(&all)?;
            } else {
                output::table(&COLUMNS, &all.iter().map(row).collect::<Vec<_>>())?;
            }
        }
    }
    Ok(0)
}

fn print(bridge: &Bridge, text: &str, ctx: &Context) -> Result<(), ApiError> {
    if ctx.json { output::json(bridge) } else { output::line(text) }
}

fn bridge_line(b: &Bridge) -> String {
    let addresses = if b.addresses.is_empty() { "no address".to_owned() } else { output::list(&b.addresses) };
    let uplink = b.uplink.as_ref().map(|u| format!(", uplink {u}")).unwrap_or_default();
    format!("{}: {addresses}{uplink}, MTU {}", b.name, b.mtu)
}

const COLUMNS: [&str; 6] = ["NAME", "UPLINK", "ADDRESS", "MTU", "PORTS", "MADE BY"];

fn row(b: &Bridge) -> Vec<String> {
    vec![
        b.name.to_string(),
        b.uplink.as_ref().map(ToString::to_string).unwrap_or_default(),
        output::list(&b.addresses),
        b.mtu.to_string(),
        b.ports.to_string(),
        if b.ours { "netd" } else { "others" }.to_owned(),
    ]
}
