//! From a record to an OCI configuration (OCI runtime specification 1.2, config.md and config-linux.md).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxDeviceCgroupBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount,
    MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, User, UserBuilder,
};
use rnet_api::ApiError;
use rnet_model::Kind;

use crate::cgroup::{self, Cgroups};
use crate::passwd::Identity;
use crate::protocol::ExecRun;
use crate::{Bind, BindAccess, EnvVar, Record, effective_caps, seccomp};

/// Version of the specification that is written.
const VERSION: &str = "1.0.2";

/// The search path of a container's programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from the container: files of /proc and /sys that tell about the host or reach its firmware, Docker's list.
const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    "/sys/kernel/security",
];

/// Not writable in the container, Docker's list.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// The shim's, which is the host's.
    Host,
    /// The one this file stands for, the container's own or one it shares with others.
    File(PathBuf),
}

/// What the record does not say.
#[derive(Debug)]
pub struct Surroundings {
    /// Network namespace.
    pub network: NetworkNamespace,
    /// User, looked up.
    pub identity: Identity,
    /// Hostname.
    pub hostname: String,
    /// What the containers it is linked to are told by; the container's own variables go before them.
    pub linked: Vec<EnvVar>,
    /// Files of the host that are the container's hosts, hostname and resolv.conf.
    pub files: OwnFiles,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Whether sysctls of the network namespace are set: not in one that others use too.
    pub sysctls: Sysctls,
}

/// Whose network namespace it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sysctls {
    /// This container's: they are set.
    Set {
        /// Groups that may make the sockets of ping, see [`ping_groups`].
        ping_groups: String,
    },
    /// Somebody else's: they are left.
    Leave,
}

/// The groups that `net.ipv4.ping_group_range` takes for all: those that exist in this user namespace, by its
/// /proc/self/gid_map (user_namespaces(7)); icmp(7) ends them at 2^31 - 1.
pub fn ping_groups(gid_map: &str) -> String {
    let extent = |line: &str| -> Option<(u32, u32)> {
        let mut words = line.split_ascii_whitespace();
        let (first, count) = (words.next()?.parse().ok()?, words.nth(1)?.parse().ok()?);
        Some((first, count))
    };
    let first = gid_map.lines().find_map(|line| extent(line).filter(|(first, count)| *first == 0 && *count > 0));
    let last = first.map_or(0, |(_, count)| (count - 1).min(i32::MAX.unsigned_abs()));
    format!("0 {last}")
}

/// Files of the host that are seen in a container's /etc.
#[derive(Debug, Clone)]
pub struct OwnFiles {
    /// /etc/hosts.
    pub hosts: PathBuf,
    /// /etc/hostname.
    pub hostname: PathBuf,
    /// /etc/resolv.conf.
    pub resolv_conf: PathBuf,
}

/// The configuration of a container.
///
/// # Errors
/// None that a user can cause; a defect otherwise.
pub fn spec(record: &Record, around: &Surroundings) -> Result<Spec, ApiError> {
    build(record, around).map_err(|e| defect(&e))
}

fn defect(error: &OciSpecError) -> ApiError {
    ApiError::new(Kind::Bug, "cannot make the container's configuration").because(error)
}

fn build(record: &Record, around: &Surroundings) -> Result<Spec, OciSpecError> {
    let mut spec = SpecBuilder::default()
        .version(VERSION)
        .root(RootBuilder::default().path(&record.spec.rootfs).readonly(false).build()?)
        .process(process(record, around)?)
        .mounts(mounts(record, around)?)
        .linux(linux(record, around)?)
        .build()?;
    spec.set_hostname(Some(around.hostname.clone()));
    spec.set_domainname(record.spec.network.domainname.as_ref().map(ToString::to_string));
    Ok(spec)
}

fn process(record: &Record, around: &Surroundings) -> Result<Process, OciSpecError> {
    let spec = &record.spec;
    let given: Vec<EnvVar> = around.linked.iter().chain(&spec.env).cloned().collect();
    let mut process = ProcessBuilder::default()
        .terminal(spec.streams.terminal())
        .args(spec.command.clone())
        .env(environment(&around.hostname, spec.streams.terminal(), &given))
        .cwd(&spec.workdir)
        .user(user(&around.identity)?)
        .capabilities(capabilities(record, &around.identity)?)
        .no_new_privileges(true)
        .build()?;
    // The crate's default would set one; a container has the limits of its shim.
    process.set_rlimits(None);
    Ok(process)
}

/// The process of `rnet exec`: the environment and rights of the container that was made from `made_from`, and what was
/// asked for on top.
///
/// # Errors
/// As [`spec`].
pub fn exec_process(record: &Record, made_from: &Spec, who: &Identity, run: &ExecRun) -> Result<Process, ApiError> {
    let terminal = run.streams.terminal();
    let hostname = made_from.hostname().as_deref().unwrap_or_default();
    let first = made_from.process().as_ref().and_then(|p| p.env().as_ref());
    let first = first.into_iter().flatten().filter_map(|text| text.parse::<EnvVar>().ok());
    // Those every program gets anew; what the user gave for them is in the record.
    let linked = first.filter(|var| !matches!(var.key.as_str(), "PATH" | "HOSTNAME" | "TERM"));
    let all: Vec<EnvVar> = linked.chain(record.spec.env.iter().chain(&run.env).cloned()).collect();
    let make = || {
        let mut process = ProcessBuilder::default()
            .terminal(terminal)
            .args(run.command.clone())
            .env(environment(hostname, terminal, &all))
            .cwd(run.workdir.as_ref().unwrap_or(&record.spec.workdir))
            .user(user(who)?)
            .capabilities(capabilities(record, who)?)
            .no_new_privileges(true)
            .build()?;
        process.set_rlimits(None);
        Ok(process)
    };
    make().map_err(|e| defect(&e))
}

/// The default variables, then the given ones; a later one of the same name replaces an earlier one. `HOME` is added by
/// libcontainer from the container's /etc/passwd when it is not given.
fn environment(hostname: &str, terminal: bool, given: &[EnvVar]) -> Vec<String> {
    let mut all: Vec<(String, String)> = vec![("PATH".into(), PATH.into()), ("HOSTNAME".into(), hostname.into())];
    if terminal {
        all.push(("TERM".into(), "xterm".into()));
    }
    for var in given {
        all.retain(|(key, _)| *key != var.key);
        all.push((var.key.clone(), var.value.clone()));
    }
    all.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn user(who: &Identity) -> Result<User, OciSpecError> {
    let builder = UserBuilder::default().uid(who.uid).gid(who.gid);
    match who.groups.is_empty() {
        true => builder.build(),
        false => builder.additional_gids(who.groups.clone()).build(),
    }
}

/// Root has them; another user could get them (bounding set) by a setuid program if no_new_privs did not rule that out.
fn capabilities(record: &Record, who: &Identity) -> Result<LinuxCapabilities, OciSpecError> {
    let names = effective_caps(&record.spec.cap_add, &record.spec.cap_drop);
    let set: Capabilities = names.iter().filter_map(|name| name.parse::<Capability>().ok()).collect();
    debug_assert_eq!(set.len(), names.len());
    let held = if who.uid == 0 { set.clone() } else { Capabilities::new() };
    LinuxCapabilitiesBuilder::default()
        .bounding(set)
        .permitted(held.clone())
        .effective(held)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
}

fn linux(record: &Record, around: &Surroundings) -> Result<Linux, OciSpecError> {
    let caps = effective_caps(&record.spec.cap_add, &record.spec.cap_drop);
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(&around.network)?)
        .masked_paths(MASKED.map(str::to_owned))
        .readonly_paths(READ_ONLY.map(str::to_owned))
        .rootfs_propagation("private")
        .cgroups_path(cgroup::path(&record.id))
        .seccomp(seccomp::profile(&caps)?)
        .build()?;
    linux.set_resources(match around.cgroups {
        // Deny all; libcontainer adds the devices every container has (null, zero, urandom, tty, pts ...).
        Cgroups::Own => {
            let none = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
            Some(LinuxResourcesBuilder::default().devices(vec![none]).build()?)
        }
        Cgroups::OwnWithoutDevices | Cgroups::Shared => None,
    });
    if let Sysctls::Set { ping_groups } = &around.sysctls {
        // Every group may make the sockets of ping (icmp(7)), so that it works without NET_RAW.
        let ping = ("net.ipv4.ping_group_range".to_owned(), ping_groups.clone());
        linux.set_sysctl(Some(HashMap::from([ping])));
    }
    Ok(linux)
}

fn namespaces(network: &NetworkNamespace) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let own = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let mut all: Vec<LinuxNamespace> =
        own.into_iter().map(|typ| LinuxNamespaceBuilder::default().typ(typ).build()).collect::<Result<_, _>>()?;
    if let NetworkNamespace::File(path) = network {
        all.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).path(path).build()?);
    }
    Ok(all)
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    MountBuilder::default().destination(destination).typ(typ).source(source).options(options).build()
}

fn mounts(record: &Record, around: &Surroundings) -> Result<Vec<Mount>, OciSpecError> {
    // No control groups: libcontainer mounts those of version 1 writable whatever the options say, and a container that
    // writes its own devices.allow has every device.
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])?,
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
    ];
    let files = &around.files;
    for (path, source) in
        [("/etc/hosts", &files.hosts), ("/etc/hostname", &files.hostname), ("/etc/resolv.conf", &files.resolv_conf)]
    {
        // What the user binds there wins.
        if !record.spec.binds.iter().any(|b| b.destination == Path::new(path)) {
            all.push(bind(source, Path::new(path), &["bind", "rprivate", "nosuid", "nodev"])?);
        }
    }
    all.extend(record.spec.binds.iter().map(user_bind).collect::<Result<Vec<_>, _>>()?);
    Ok(all)
}

fn user_bind(wanted: &Bind) -> Result<Mount, OciSpecError> {
    let access = match wanted.access {
        BindAccess::ReadOnly => "ro",
        BindAccess::ReadWrite => "rw",
    };
    bind(&wanted.source, &wanted.destination, &["rbind", "rprivate", access])
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    MountBuilder::default().destination(destination).typ("bind").source(source).options(options).build()
}

#[cfg(test)]
#[path = "bundle/tests.rs"]
mod tests;
