//! Options of Docker's bridge driver (`-o com.docker.network.*`): those with an equivalent become it, the others are kept
//! as they are and have no effect, which is said.

use std::str::FromStr;

use rnet_api::ApiError;
use rnet_model::{GatewayMode, InvalidInput, Kind, NetworkSpec, Toggle};

/// Begins all of them.
const DOCKER: &str = "com.docker.network.";

/// Puts the options into a spec. The answer is what has no effect, a line each.
///
/// # Errors
/// For a value that is none, and for one that has no equivalent where silence would be a surprise.
pub(super) fn understand(options: Vec<(String, String)>, spec: &mut NetworkSpec) -> Result<Vec<String>, ApiError> {
    let mut remarks = Vec::new();
    for (key, value) in options {
        if !equivalent(&key, &value, spec)? {
            if key.starts_with(DOCKER) {
                remarks.push(format!("option {key} is kept and has no effect"));
            }
            spec.options.insert(key, value);
        }
    }
    Ok(remarks)
}

fn equivalent(key: &str, value: &str, spec: &mut NetworkSpec) -> Result<bool, ApiError> {
    let Some(option) = key.strip_prefix(DOCKER) else { return Ok(false) };
    match option {
        "bridge.name" => spec.bridge = Some(read(key, value)?),
        "bridge.enable_icc" => spec.icc = toggle(key, value)?,
        "bridge.enable_ip_masquerade" => spec.masquerade = toggle(key, value)?,
        "host_ipv4" | "host_ipv6" => spec.outbound.push(read(key, value)?),
        "driver.mtu" => spec.mtu = Some(read(key, value)?),
        "enable_ipv6" => spec.ipv6 = toggle(key, value)?.is_on(),
        "bridge.gateway_mode_ipv4" | "bridge.gateway_mode_ipv6" => spec.gateway_mode = gateway_mode(key, value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A value, or what is wrong with it.
fn read<T: FromStr<Err: std::fmt::Display>>(key: &str, value: &str) -> Result<T, ApiError> {
    value.parse().map_err(|e: T::Err| InvalidInput::new("option", format!("{key}={value}"), e.to_string()).into())
}

/// A boolean as Go reads it (strconv.ParseBool).
fn toggle(key: &str, value: &str) -> Result<Toggle, ApiError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Toggle::On),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Toggle::Off),
        _ => Err(InvalidInput::new("option", format!("{key}={value}"), "is neither true nor false").into()),
    }
}

/// What Docker has beyond NAT and routing opens or closes more than the two do: it is refused rather than ignored.
fn gateway_mode(key: &str, value: &str) -> Result<GatewayMode, ApiError> {
    match value {
        "nat" => Ok(GatewayMode::Nat),
        "routed" => Ok(GatewayMode::Routed),
        _ => Err(ApiError::new(Kind::Unsupported, format!("option {key}={value}: rnet knows nat and routed"))
            .hint("for isolated give --internal; unprotected networks are not made")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn understood(options: &[(&str, &str)]) -> Result<(NetworkSpec, Vec<String>), ApiError> {
        let mut spec = NetworkSpec::new("blue".parse().unwrap());
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let remarks = understand(options, &mut spec)?;
        Ok((spec, remarks))
    }

    #[test]
    fn equivalents_and_the_rest() {
        let (spec, remarks) = understood(&[
            ("com.docker.network.bridge.name", "blue0"),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.host_ipv4", "192.0.2.1"),
            ("com.docker.network.bridge.trusted_host_interfaces", "eth0"),
            ("team", "net"),
        ])
        .unwrap();
        assert_eq!((spec.bridge.unwrap().as_str(), spec.icc, spec.mtu), ("blue0", Toggle::Off, Some(1400)));
        assert_eq!(spec.outbound, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(spec.options.len(), 2);
        assert_eq!(remarks.len(), 1);
        assert!(remarks[0].contains("trusted_host_interfaces"));
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.driver.mtu", "big"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected"),
        ] {
            assert!(understood(&[(key, value)]).unwrap_err().message.contains(value));
        }
    }
}
