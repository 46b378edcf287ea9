//! The text of a container's own files.

use std::fmt::Write as _;
use std::net::IpAddr;

/// `/etc/hosts`: the well-known names, then the container's addresses with its name.
pub fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut out = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    // host.domain is known by its first label too.
    let short = hostname.split_once('.').map(|(label, _)| label);
    for address in addresses {
        let _ = write!(out, "{address}\t{hostname}");
        if let Some(short) = short {
            let _ = write!(out, " {short}");
        }
        out.push('\n');
    }
    out
}

/// `/etc/hostname`.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// `/etc/resolv.conf` of a container in a network namespace of its own: the host's without name servers that only the
/// host itself reaches. `direct` is what the host's stub resolver forwards to
/// (`/run/systemd/resolve/resolv.conf`, systemd-resolved.service(8)), used when nothing else is left.
pub fn resolv_conf(host: &str, direct: Option<&str>) -> String {
    let servers = |text: &str| text.lines().any(|l| server(l).is_some_and(|s| !own(s)));
    let source = match direct {
        Some(direct) if !servers(host) && servers(direct) => direct,
        _ => host,
    };
    let mut out = String::new();
    for line in source.lines().filter(|l| !server(l).is_some_and(own)) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The address in a `nameserver` line (resolv.conf(5)).
fn server(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

/// Whether an address means the host itself, or a link that the container is not on.
fn own(server: &str) -> bool {
    if server.contains('%') {
        return true;
    }
    match server.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_file() {
        let text = hosts("web.example.org", &["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.2\tweb.example.org web\nfd00::2\tweb.example.org web\n"));
        assert!(hosts("web", &[]).ends_with("ip6-allrouters\n"));
    }

    #[test]
    fn resolvers_of_the_host_alone_are_left_out() {
        let host = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.1\noptions edns0\n";
        let kept = "# made by hand\nsearch example.org\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(resolv_conf(host, Some("nameserver 192.0.2.9\n")), kept);
        let stub = "nameserver 127.0.0.53\nsearch example.org\n";
        assert_eq!(resolv_conf(stub, Some("nameserver 192.0.2.9\n")), "nameserver 192.0.2.9\n");
        assert_eq!(resolv_conf(stub, Some("nameserver ::1\n")), "search example.org\n");
        assert_eq!(resolv_conf(stub, None), "search example.org\n");
        assert_eq!(resolv_conf("nameserver fe80::1%eth0\n", None), "");
        assert_eq!(resolv_conf("", None), "");
    }
}
