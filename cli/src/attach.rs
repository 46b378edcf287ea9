//! `rnet attach`, `detach`, `attachments`, `wait`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use rnet_api::{
    ApiError, AttachReply, AttachRequest, Client, DetachRequest, DetachWhich, Endpoint, Outcome, WaitRequest,
};
use rnet_model::{
    AddressSpec, AttachOptions, AttachSpec, ContainerRef, Engine, HostIf, IfName, Kind, MacAddr, RouteSpec, VlanId,
    VlanSet,
};
use rnet_runtime::Status;

use crate::progress::Progress;
use crate::{Context, output};

const ATTACH_HELP: &str = "\
Examples:
  rnet attach br0 web 192.168.115.10/24                    an address, no gateway
  rnet attach br0 web 192.168.115.10/24@192.168.115.1      and a default route
  rnet attach br0 web 192.168.115.10/24@gw                 the gateway is found
  rnet attach br0 web 10.0.0.5/24,fd00::5/64@fd00::1       IPv4 and IPv6
  rnet attach br0 docker:web none                          a link without an address
  rnet attach br0 pid:4711 192.168.115.10/24 U:web.lan     a MAC address that stays the same
  rnet attach br0 netns:blue 10.0.0.9/24 --dry-run         show the steps, change nothing

The same attach again changes nothing and succeeds. A failed attach leaves nothing behind.";

/// Attach a container to a host interface
///
/// Makes a veth pair between the bridge HOSTIF and the container, and gives the container's end the address, MAC, MTU
/// and routes asked for. A bridge that does not exist is made when its name begins with br. The attachment comes back
/// after a restart of the container, of netd and of the host, until it is detached.
#[derive(Debug, Args)]
#[command(after_help = ATTACH_HELP)]
pub(crate) struct AttachArgs {
    /// Host side: name of a bridge; mac:xx:xx:xx:xx:xx:xx is not in this version
    #[arg(value_name = "HOSTIF")]
    hostif: HostIf,

    /// Container: [rnet:|docker:|netns:]NAME-or-ID or pid:N; podman:, containerd: and lxc: are not in this version
    #[arg(value_name = "CTR")]
    container: ContainerRef,

    /// IP/PREFIX[@GATEWAY][,IP/PREFIX[@GATEWAY]]..., auto[@GATEWAY], or none
    #[arg(
        value_name = "ADDRESS",
        long_help = "IP/PREFIX[@GATEWAY][,IP/PREFIX[@GATEWAY]]... of IPv4 and IPv6; @gw finds the gateway: the host's \
                     default gateway if it is in the subnet, else the bridge's own address in it. auto[@GATEWAY] takes \
                     the next free address of the network the bridge belongs to. none (or 0/0) makes the link only."
    )]
    address: AddressSpec,

    /// MAC or U:text: MAC address inside, U:text makes a stable one from the text; @VLAN is not in this version
    #[arg(value_name = "MAC")]
    mac_word: Option<String>,

    #[command(flatten)]
    options: AttachFlags,

    /// While the container or the host interface is missing, try again for so many seconds [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,

    /// Show the steps in the words of ip(8) and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct AttachFlags {
    /// Name of the interface inside [default: the first free ethN]
    #[arg(short, long, value_name = "NAME")]
    ifname: Option<IfName>,

    /// Name of the host's end [default: made from the id of the attachment]
    #[arg(short = 'l', long, value_name = "NAME")]
    host_ifname: Option<IfName>,

    /// MAC address inside, or U:text for a stable one made from the text [default: random, locally administered]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,

    /// Access VLAN of the bridge port, 1 to 4094 (not in this version) [default: untagged]
    #[arg(long, value_name = "VID")]
    vlan: Option<VlanId>,

    /// Tagged VLANs of the bridge port: VID[,VID-VID]... (not in this version) [default: none]
    #[arg(long, value_name = "VIDS", conflicts_with = "vlan")]
    trunk: Option<VlanSet>,

    /// MTU in bytes, at most the bridge's [default: the bridge's]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,

    /// Additional route inside: DST[@VIA], DST is a prefix or "default"; repeatable
    #[arg(long = "route", value_name = "DST[@VIA]")]
    routes: Vec<RouteSpec>,

    /// Metric of its routes, lower wins [default: 0, or one more than the largest default route there is]
    #[arg(long, value_name = "N")]
    metric: Option<u32>,

    /// Do not make the gateway the default route
    #[arg(long)]
    no_default_route: bool,

    /// Forget the attachment when the container or netd ends [default: it comes back]
    #[arg(long)]
    no_persist: bool,

    /// Do not ask the LAN whether the address is in use [default: ask, at most 300 ms]
    #[arg(long)]
    no_probe: bool,

    /// On a network of rnet: let frames with other source addresses than its own through, for routers and labs
    #[arg(long)]
    allow_spoof: bool,

    /// Replace an attachment of the same interface that differs; its MAC address and its -l name stay unless others are
    /// given [default: refuse]
    #[arg(long)]
    replace: bool,
}

impl AttachArgs {
    fn request(self) -> Result<AttachRequest, ApiError> {
        let f = self.options;
        let mut options = AttachOptions {
            ifname: f.ifname,
            host_ifname: f.host_ifname,
            mac: f.mac,
            vlan: f.vlan,
            trunk: f.trunk,
            mtu: f.mtu,
            routes: f.routes,
            metric: f.metric,
            no_default_route: f.no_default_route,
            no_persist: f.no_persist,
            no_probe: f.no_probe,
            allow_spoof: f.allow_spoof,
            replace: f.replace,
        };
        if let Some(word) = &self.mac_word {
            options.apply_mac_word(word)?;
        }
        let spec = AttachSpec { hostif: self.hostif, container: self.container, address: self.address, options };
        spec.validate()?;
        Ok(AttachRequest { spec, dry_run: self.dry_run, identity: None })
    }
}

/// Seconds with a fraction, as a duration of at most a day.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    number_of_seconds(text, 86_400)
}

fn number_of_seconds(text: &str, longest: u32) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|s| (0.0..=f64::from(longest)).contains(s))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("not a number of seconds from 0 to {longest}"))
}

pub(crate) fn attach(args: AttachArgs, ctx: &Context) -> Result<u8, ApiError> {
    let patience = args.wait.unwrap_or_default();
    let request = args.request()?;
    let progress = Progress::spinner(format!("attaching {}", request.spec.container));
    let reply = attach_patiently(&ctx.client(), &request, patience)
        .map_err(|error| or_stopped(error, &request.spec.container, ctx))?;
    drop(progress);
    if ctx.json {
        output::json(&reply)?;
    } else {
        output::text(&render_reply(&reply))?;
    }
    Ok(0)
}

/// Repeats a request that may succeed later. An attach is idempotent, so that the repetition is safe even when the
/// answer of an earlier one was lost.
fn attach_patiently(client: &Client, request: &AttachRequest, patience: Duration) -> Result<AttachReply, ApiError> {
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + patience;
    loop {
        match client.attach(request) {
            Err(e)
                if matches!(e.kind, Kind::Missing | Kind::Retry | Kind::Unavailable)
                    && Instant::now() + PAUSE < deadline =>
            {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "bounded by the deadline; engines announce no start here"
                )]
                std::thread::sleep(PAUSE);
            }
            answer => return answer,
        }
    }
}

/// The endpoint in a line with what was done, or the plan.
pub(crate) fn render_reply(reply: &AttachReply) -> String {
    let outcome = match reply.outcome {
        Outcome::Created => "attached",
        Outcome::Unchanged => "unchanged",
        Outcome::Replaced => "replaced",
        Outcome::Planned => "planned, nothing was changed",
    };
    let mut out = format!("{} ({outcome})\n", output::endpoint_line(&reply.endpoint));
    for step in &reply.plan {
        out.push_str(&format!("  {step}\n"));
    }
    out
}

/// Detach interfaces of a container
///
/// Removes the interface and forgets the attachment. Works also when the container is gone already.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet detach web             the only attachment of web
  rnet detach web eth1        one of several
  rnet detach docker:web --all")]
pub(crate) struct DetachArgs {
    /// Container, as for attach, or the name or id it was attached under
    #[arg(value_name = "CTR")]
    container: ContainerRef,

    /// Name of the interface inside [default: the only one attached]
    #[arg(value_name = "IFNAME", conflicts_with = "all")]
    ifname: Option<IfName>,

    /// Detach all interfaces
    #[arg(long)]
    all: bool,
}

pub(crate) fn detach(args: DetachArgs, ctx: &Context) -> Result<u8, ApiError> {
    let which = match (args.ifname, args.all) {
        (Some(name), _) => DetachWhich::Ifname(name),
        (None, true) => DetachWhich::All,
        (None, false) => DetachWhich::Only,
    };
    let gone = ctx.client().detach(&DetachRequest { container: args.container, which })?;
    print_detached(&gone, ctx)?;
    Ok(0)
}

/// The endpoints that were removed.
pub(crate) fn print_detached(gone: &[Endpoint], ctx: &Context) -> Result<(), ApiError> {
    if ctx.json {
        return output::json(gone);
    }
    gone.iter().try_for_each(|e| output::line(&format!("{} {}: detached", output::container(e), e.ifname)))
}

/// List attachments, or show one
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AttachmentsArgs {
    #[command(subcommand)]
    command: Option<AttachmentsCommand>,
}

#[derive(Debug, Subcommand)]
enum AttachmentsCommand {
    /// List all interfaces of all containers (the default)
    Ls,
    /// Show one as JSON
    Inspect {
        /// Id, or a unique prefix of it
        #[arg(value_name = "ID")]
        id: String,
    },
}

pub(crate) fn attachments(args: AttachmentsArgs, ctx: &Context) -> Result<u8, ApiError> {
    match args.command {
        Some(AttachmentsCommand::Inspect { id }) => output::json(&ctx.client().attachment(&id)?)?,
        Some(AttachmentsCommand::Ls) | None => {
            let all = ctx.client().attachments()?;
            if ctx.json {
                output::json(&all)?;
            } else {
                output::table(&ATTACHMENT_COLUMNS, &all.iter().map(attachment_row).collect::<Vec<_>>())?;
            }
        }
    }
    Ok(0)
}

const ATTACHMENT_COLUMNS: [&str; 8] = ["CONTAINER", "IFNAME", "ON", "ADDRESS", "GATEWAY", "MAC", "STATUS", "ID"];

fn attachment_row(e: &Endpoint) -> Vec<String> {
    let on = match (&e.network, &e.bridge) {
        (Some(network), _) => network.to_string(),
        (None, Some(bridge)) => bridge.to_string(),
        (None, None) => String::new(),
    };
    vec![
        format!("{}:{}", e.engine, e.container),
        e.ifname.to_string(),
        on,
        output::list(&e.addresses),
        output::list(&e.gateways),
        e.mac.map(|m| m.to_string()).unwrap_or_default(),
        output::status(&e.status),
        e.id.to_string(),
    ]
}

/// Wait until an interface of a container is ready, or until a container ends
///
/// With -i or --timeout, or for a container of another engine, waits until the interface is there with its addresses.
/// Without them, for one of rnet's own containers, waits until it ends and prints its exit code; a name that is neither
/// such a container's nor one with an attachment is refused at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet wait web -i eth1 --timeout 5     until eth1 of web is ready
  rnet wait job                         until rnet's own container job ends; prints its exit code")]
pub(crate) struct WaitArgs {
    /// Container, as for attach
    #[arg(value_name = "CTR")]
    container: ContainerRef,

    /// Name of the interface inside [default: any]
    #[arg(short, long, value_name = "IF")]
    ifname: Option<IfName>,

    /// Longest wait for an interface in seconds, at most 3600 [default: 30]
    #[arg(long, value_name = "S", value_parser = up_to_an_hour)]
    timeout: Option<Duration>,
}

const WAIT: Duration = Duration::from_secs(30);

/// Seconds with a fraction, at most as many as netd waits.
fn up_to_an_hour(text: &str) -> Result<Duration, String> {
    number_of_seconds(text, 3600)
}

pub(crate) fn wait(args: WaitArgs, ctx: &Context) -> Result<u8, ApiError> {
    if args.ifname.is_none() && args.timeout.is_none() {
        if let Some(own) = crate::runtime::is_own(&args.container, ctx)? {
            return crate::runtime::end_of(&own, ctx);
        }
        known(&args.container, &ctx.client())?;
    }
    let timeout = args.timeout.unwrap_or(WAIT);
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let what = args.ifname.as_ref().map_or_else(|| "an interface".to_owned(), ToString::to_string);
    let progress = Progress::spinner(format!("waiting for {what} of {}", args.container));
    let endpoint = ctx.client().wait(&WaitRequest { container: args.container, ifname: args.ifname, timeout_ms })?;
    drop(progress);
    if ctx.json {
        output::json(&endpoint)?;
    } else {
        output::line(&output::endpoint_line(&endpoint))?;
    }
    Ok(0)
}

/// Nobody waits for what is misspelled: a name that may be one of rnet's own containers is none of them, and is refused
/// unless something is attached to a container of that name.
fn known(container: &ContainerRef, client: &Client) -> Result<(), ApiError> {
    const LISTS: &str = "rnet ps -a and rnet attachments list them; for one that is still to come, use --timeout";
    let missing =
        |name, more: &str| ApiError::new(Kind::Missing, format!("there is no container {name} of rnet's own{more}"));
    match container {
        ContainerRef::Any(name) => match client.attachments() {
            Ok(all) if all.iter().any(|e| means(name.as_str(), e)) => Ok(()),
            Ok(_) => Err(missing(name, ", and nothing is attached to another one").hint(LISTS)),
            Err(e) if e.kind == Kind::Unavailable => {
                let error = missing(name, ", and nobody knows of others").because(&e);
                Err(ApiError { hint: e.hint, ..error })
            }
            Err(e) => Err(e),
        },
        ContainerRef::Of(Engine::Rnet, name) => Err(missing(name, "").hint("rnet ps -a lists them")),
        _ => Ok(()),
    }
}

/// Whether a word is a container's name or the beginning of its id.
fn means(word: &str, endpoint: &Endpoint) -> bool {
    endpoint.container == word || endpoint.container_id.starts_with(word)
}

/// netd knows containers that run; the runtime's own records say more of one that does not.
fn or_stopped(error: ApiError, container: &ContainerRef, ctx: &Context) -> ApiError {
    if error.kind != Kind::Missing {
        return error;
    }
    // What cannot be read here does not make the first error another one.
    let Ok(Some(own)) = crate::runtime::is_own(container, ctx) else { return error };
    match own.status() {
        Ok(Status::Created | Status::Exited | Status::Dead) => {
            let name = own.record.name;
            error.hint(format!("{name} is stopped: rnet start {name}"))
        }
        Ok(Status::Running) | Err(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_seconds() {
        assert_eq!(up_to_an_hour("3600"), Ok(Duration::from_secs(3600)));
        assert_eq!(up_to_an_hour("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["3600.1", "-1", "NaN", "", "99999"] {
            assert_eq!(up_to_an_hour(bad), Err("not a number of seconds from 0 to 3600".to_owned()), "{bad}");
        }
        assert_eq!(seconds("86400"), Ok(Duration::from_secs(86_400)));
        assert!(seconds("86401").is_err());
    }
}
