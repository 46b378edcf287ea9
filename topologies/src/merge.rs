//! Inheritance: node over group over kind over defaults, key by key, with containerlab's three rules.
//!
//! Mappings merge by key and the closer value wins; `exec` and `cap-add` append, without repeats, farthest first;
//! `binds` do the same by destination with the closer one winning; every other key is taken from the closest place
//! that has it.

use serde_saphyr::Spanned;

use crate::file::{Body, Extension, Ordered, Topology};

/// The keys of `node` with everything it inherits.
pub(crate) fn inherit(topology: &Topology, node: &Body) -> Body {
    let by_name = |bodies: &Ordered<Body>, name: &Option<Spanned<String>>| {
        let name = name.as_ref()?;
        bodies.0.iter().find(|(key, _)| key.value == name.value).map(|(_, body)| body.clone())
    };
    let defaults = &topology.defaults;
    let group_name = node.group.clone().or_else(|| {
        let kind = by_name(&topology.kinds, &node.kind.clone().or_else(|| defaults.kind.clone()));
        kind.and_then(|k| k.group).or_else(|| defaults.group.clone())
    });
    let group = by_name(&topology.groups, &group_name).unwrap_or_default();
    let kind_name = node.kind.clone().or_else(|| group.kind.clone()).or_else(|| defaults.kind.clone());
    let kind = by_name(&topology.kinds, &kind_name).unwrap_or_default();
    let mut merged = over(&over(&over(node, &group), &kind), defaults);
    merged.kind = kind_name;
    merged
}

fn over(near: &Body, far: &Body) -> Body {
    let pick = |near: &Option<Spanned<String>>, far: &Option<Spanned<String>>| near.clone().or_else(|| far.clone());
    Body {
        kind: pick(&near.kind, &far.kind),
        group: pick(&near.group, &far.group),
        image: pick(&near.image, &far.image),
        cmd: pick(&near.cmd, &far.cmd),
        entrypoint: pick(&near.entrypoint, &far.entrypoint),
        user: pick(&near.user, &far.user),
        hostname: pick(&near.hostname, &far.hostname),
        network_mode: pick(&near.network_mode, &far.network_mode),
        exec: append(&near.exec, &far.exec, |line| line),
        binds: append(&near.binds, &far.binds, destination),
        cap_add: append(&near.cap_add, &far.cap_add, |cap| cap),
        env: entries(&near.env, &far.env),
        sysctls: entries(&near.sysctls, &far.sysctls),
        labels: entries(&near.labels, &far.labels),
        x_rnet: extension(&near.x_rnet, &far.x_rnet),
        ..Body::default()
    }
}

/// Far ones first; of two with the same key the near one stays, in the far one's place.
fn append(near: &[Spanned<String>], far: &[Spanned<String>], key: fn(&str) -> &str) -> Vec<Spanned<String>> {
    let mut all: Vec<Spanned<String>> = Vec::with_capacity(near.len() + far.len());
    for item in far.iter().chain(near) {
        match all.iter_mut().find(|known| key(&known.value) == key(&item.value)) {
            Some(known) => *known = item.clone(),
            None => all.push(item.clone()),
        }
    }
    all
}

/// `dst` of `src:dst[:options]`.
pub(crate) fn destination(bind: &str) -> &str {
    bind.split(':').nth(1).unwrap_or(bind)
}

fn entries(near: &Ordered<String>, far: &Ordered<String>) -> Ordered<String> {
    let mut all = far.0.clone();
    for (key, value) in &near.0 {
        match all.iter_mut().find(|(known, _)| known.value == key.value) {
            Some(known) => *known = (key.clone(), value.clone()),
            None => all.push((key.clone(), value.clone())),
        }
    }
    Ordered(all)
}

fn extension(near: &Option<Spanned<Extension>>, far: &Option<Spanned<Extension>>) -> Option<Spanned<Extension>> {
    let (Some(near), Some(far)) = (near, far) else {
        return near.clone().or_else(|| far.clone());
    };
    let mut merged = near.clone();
    if merged.value.rootfs.is_none() {
        merged.value.rootfs.clone_from(&far.value.rootfs);
    }
    if merged.value.addresses.is_empty() {
        merged.value.addresses.clone_from(&far.value.addresses);
    }
    Some(merged)
}
