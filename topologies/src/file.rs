//! The shape of a topology file: containerlab's keys and rnet's additions, one Rust type for each YAML mapping.
//!
//! Strict: a key that is not here is an error with its line and column, and so is a key given twice. Keys that
//! containerlab knows and rnet does not act on are [`Unused`]: accepted, and reported as without effect where that can
//! change what the lab does. Bare scalars keep their text in string fields (`type: 5132`, `env: {A: 0x10}`) and null
//! stands for "nothing given" everywhere, as containerlab's decoder has it.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use crate::error::Place;

/// A key that is accepted and has no effect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unused;

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Unused)
    }
}

/// A mapping in the order of the file. The YAML reader refuses a key that comes twice.
#[derive(Debug, Clone)]
pub(crate) struct Ordered<V>(pub(crate) Vec<(Spanned<String>, V)>);

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<'de, V: Deserialize<'de> + Default> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de> + Default> Visitor<'de> for Entries<V> {
            type Value = Ordered<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    entries.push((key, map.next_value::<Option<V>>()?.unwrap_or_default()));
                }
                Ok(Ordered(entries))
            }
        }
        d.deserialize_map(Entries(PhantomData))
    }
}

/// Null is the default value.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) name: Spanned<String>,
    #[serde(default)]
    pub(crate) prefix: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) mgmt: Option<Spanned<Unused>>,
    #[serde(default, rename = "settings")]
    pub(crate) _settings: Option<Unused>,
    #[serde(default, rename = "debug")]
    pub(crate) _debug: Option<Unused>,
    /// rnet: image name to root file system directory.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) images: Ordered<String>,
    pub(crate) topology: Topology,
}

/// `topology:`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topology {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) defaults: Body,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kinds: Ordered<Body>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) groups: Ordered<Body>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) nodes: Ordered<Body>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) links: Vec<Spanned<Link>>,
}

/// The keys of a node: those that are used, those without effect that the user should hear of, and those that cannot
/// change what the lab does.
macro_rules! body {
    (
        used { $($(#[$attribute:meta])* $used:ident: $ty:ty,)* }
        reported { $($reported:ident: $reported_key:literal,)* }
        silent { $($silent:ident: $silent_key:literal,)* }
    ) => {
        /// The keys of a node; `defaults`, `kinds.*` and `groups.*` have the same ones.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub(crate) struct Body {
            $($(#[$attribute])* pub(crate) $used: $ty,)*
            $(#[serde(rename = $reported_key)] pub(crate) $reported: Option<Spanned<Unused>>,)*
            $(#[serde(rename = $silent_key)] pub(crate) $silent: Option<Unused>,)*
        }

        impl Body {
            /// Keys given that have no effect, each with its place.
            pub(crate) fn without_effect(&self) -> Vec<(&'static str, Option<Place>)> {
                $(let _ = self.$silent;)*
                [$(self.$reported.as_ref().map(|s| ($reported_key, Place::of(s.referenced))),)*]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        }
    };
}

body! {
    used {
        kind: Option<Spanned<String>>,
        group: Option<Spanned<String>>,
        image: Option<Spanned<String>>,
        cmd: Option<Spanned<String>>,
        entrypoint: Option<Spanned<String>>,
        user: Option<Spanned<String>>,
        hostname: Option<Spanned<String>>,
        network_mode: Option<Spanned<String>>,
        #[serde(deserialize_with = "nullable")]
        exec: Vec<Spanned<String>>,
        #[serde(deserialize_with = "nullable")]
        binds: Vec<Spanned<String>>,
        #[serde(deserialize_with = "nullable")]
        env: Ordered<String>,
        #[serde(deserialize_with = "nullable")]
        sysctls: Ordered<String>,
        #[serde(deserialize_with = "nullable")]
        labels: Ordered<String>,
        #[serde(deserialize_with = "nullable")]
        cap_add: Vec<Spanned<String>>,
        x_rnet: Option<Spanned<Extension>>,
    }
    reported {
        aliases: "aliases",
        certificate: "certificate",
        cgroup_parent: "cgroup-parent",
        cgroupns_mode: "cgroupns-mode",
        components: "components",
        config: "config",
        cpu: "cpu",
        cpu_set: "cpu-set",
        devices: "devices",
        dns: "dns",
        env_files: "env-files",
        extras: "extras",
        healthcheck: "healthcheck",
        link_apply_mode: "link-apply-mode",
        memory: "memory",
        mgmt_ipv4: "mgmt-ipv4",
        mgmt_ipv6: "mgmt-ipv6",
        pid_mode: "pid-mode",
        ports: "ports",
        restart_policy: "restart-policy",
        security_opts: "security-opts",
        shm_size: "shm-size",
        stages: "stages",
        startup_delay: "startup-delay",
        tmpfs: "tmpfs",
        volumes: "volumes",
    }
    silent {
        auto_remove: "auto-remove",
        credentials: "credentials",
        enforce_startup_config: "enforce-startup-config",
        image_pull_policy: "image-pull-policy",
        license: "license",
        password: "password",
        position: "position",
        privileged: "privileged",
        runtime: "runtime",
        startup_config: "startup-config",
        suppress_startup_config: "suppress-startup-config",
        node_type: "type",
        username: "username",
    }
}

/// `x-rnet:` of a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Extension {
    /// Directory that is the node's root file system.
    pub(crate) rootfs: Option<Spanned<String>>,
    /// Addresses of a bridge itself.
    pub(crate) addresses: Vec<Spanned<String>>,
}

/// One entry of `links:`, in its brief or its extended form.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Link {
    #[serde(default, rename = "type")]
    pub(crate) link_type: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) endpoints: Vec<Spanned<Endpoint>>,
    #[serde(default)]
    pub(crate) mtu: Option<Spanned<u32>>,
    /// Brief form: the address of each endpoint, in order; an empty string for none.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ipv4: Vec<Spanned<String>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ipv6: Vec<Spanned<String>>,
    #[serde(default, rename = "labels")]
    pub(crate) _labels: Option<Unused>,
    #[serde(default, rename = "vars")]
    pub(crate) _vars: Option<Unused>,
    // Keys of link types that are refused by name; here so that the error is about the type.
    #[serde(default, rename = "endpoint")]
    pub(crate) _endpoint: Option<Unused>,
    #[serde(default, rename = "host-interface")]
    pub(crate) _host_interface: Option<Unused>,
    #[serde(default, rename = "mode")]
    pub(crate) _mode: Option<Unused>,
    #[serde(default, rename = "remote")]
    pub(crate) _remote: Option<Unused>,
    #[serde(default, rename = "vni")]
    pub(crate) _vni: Option<Unused>,
    #[serde(default, rename = "dst-port")]
    pub(crate) _dst_port: Option<Unused>,
    #[serde(default, rename = "udp-port")]
    pub(crate) _udp_port: Option<Unused>,
    #[serde(default, rename = "src-port")]
    pub(crate) _src_port: Option<Unused>,
    #[serde(default, rename = "parent-interface")]
    pub(crate) _parent_interface: Option<Unused>,
}

/// One end of a link.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    /// `"node:interface"`.
    Brief(String),
    /// `{node: .., interface: ..}`.
    Extended(Box<ExtendedEndpoint>),
}

/// One end of a link, with its addresses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendedEndpoint {
    pub(crate) node: String,
    pub(crate) interface: String,
    #[serde(default)]
    pub(crate) mac: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) ipv4: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) ipv6: Option<Spanned<String>>,
    #[serde(default, rename = "vars")]
    pub(crate) _vars: Option<Unused>,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Endpoint;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"node:interface\" or a mapping with node and interface")
            }
            fn visit_str<E>(self, text: &str) -> Result<Endpoint, E> {
                Ok(Endpoint::Brief(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                ExtendedEndpoint::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(|e| Endpoint::Extended(Box::new(e)))
            }
        }
        d.deserialize_any(Either)
    }
}
