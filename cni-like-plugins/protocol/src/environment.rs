//! The environment a plugin is called with: section 2 of the CNI specification, "Parameters".

use rnet_model::IfName;

use crate::Error;

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Make the interface, or change what the plugin before made.
    Add,
    /// Undo ADD; repeatable, and a success when nothing is left.
    Del,
    /// Compare with the result of ADD.
    Check,
    /// Remove what belongs to no valid attachment.
    Gc,
    /// Whether ADD could be served.
    Status,
    /// Which versions are spoken.
    Version,
}

impl Command {
    /// As in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Gc => "GC",
            Command::Status => "STATUS",
            Command::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version];
        all.into_iter().find(|c| c.as_str() == text)
    }

    /// The variables that may not be empty, besides `CNI_COMMAND`.
    fn required(self) -> &'static [&'static str] {
        match self {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Command::Gc | Command::Status => &["CNI_PATH"],
            Command::Version => &[],
        }
    }
}

/// The variables, checked. Those a command has no use for may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`, a path; may be empty for DEL.
    pub netns: String,
    /// `CNI_IFNAME`; `None` for commands without one.
    pub ifname: Option<IfName>,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// `CNI_PATH`, its folders in order.
    pub path: Vec<String>,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the plugin's own.
    pub netns_override: bool,
}

impl Environment {
    /// Reads the variables with `get`, usually [`std::env::var`]. `None` without `CNI_COMMAND`: somebody calls the
    /// executable by hand.
    ///
    /// # Errors
    /// Code 4 naming all variables that are missing, or the one that is wrong; 3 for a container without an id.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let bad = |msg: String| Error::new(Error::INVALID_ENVIRONMENT, msg);
        let text = |name: &str| get(name).unwrap_or_default();
        let Some(command) = get("CNI_COMMAND").filter(|c| !c.is_empty()) else { return Ok(None) };
        let command = Command::parse(&command).ok_or_else(|| bad(format!("unknown CNI_COMMAND: {command}")))?;
        let missing: Vec<&str> = command.required().iter().copied().filter(|n| text(n).is_empty()).collect();
        if !missing.is_empty() {
            return Err(bad(format!("required env variables [{}] missing", missing.join(","))));
        }
        let wanted = |name: &str| command.required().contains(&name);
        let container = text("CNI_CONTAINERID");
        if wanted("CNI_CONTAINERID") && !is_name(&container) {
            return Err(bad(format!("CNI_CONTAINERID {container:?} is none"))
                .details("a letter or a digit, then letters, digits, '_', '.' and '-'"));
        }
        let ifname = if wanted("CNI_IFNAME") {
            let parsed = text("CNI_IFNAME").parse::<IfName>();
            Some(parsed.map_err(|e| bad(format!("CNI_IFNAME: {e}")))?)
        } else {
            None
        };
        Ok(Some(Environment {
            command,
            container,
            netns: text("CNI_NETNS"),
            ifname,
            // What was made has to go, whatever the arguments are now.
            args: args(&text("CNI_ARGS")).or_else(|e| if command == Command::Del { Ok(Vec::new()) } else { Err(e) })?,
            path: text("CNI_PATH").split(':').filter(|p| !p.is_empty()).map(str::to_owned).collect(),
            netns_override: matches!(text("CNI_NETNS_OVERRIDE").to_ascii_uppercase().as_str(), "1" | "TRUE"),
        }))
    }

    /// A value of `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Refuses keys of `CNI_ARGS` that are not in `known`, unless `IgnoreUnknown` is set.
    ///
    /// # Errors
    /// Code 4.
    pub fn only_args(&self, known: &[&str]) -> Result<(), Error> {
        let ignore = self.arg("IgnoreUnknown").is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true"));
        match self.args.iter().find(|(k, _)| k != "IgnoreUnknown" && !known.contains(&k.as_str())) {
            Some((key, _)) if !ignore => Err(Error::new(Error::INVALID_ENVIRONMENT, format!("unknown args [{key:?}]"))
                .details("CNI_ARGS=IgnoreUnknown=1;... lets a plugin pass over keys of others")),
            _ => Ok(()),
        }
    }
}

/// Names of networks and containers: section 1 of the specification, "Configuration format".
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn args(text: &str) -> Result<Vec<(String, String)>, Error> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::new(Error::INVALID_ENVIRONMENT, format!("invalid CNI_ARGS pair {pair:?}"))
                .details("CNI_ARGS is KEY=VALUE;KEY=VALUE")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, Error> {
        Environment::read(|name| variables.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let all = |command: &str| read(&[("CNI_COMMAND", command)]).map_err(|e| (e.code, e.msg));
        let text = |names: &str| Err((4, format!("required env variables [{names}] missing")));
        assert_eq!(all("ADD"), text("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"));
        assert_eq!(all("CHECK"), text("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"));
        assert_eq!(all("DEL"), text("CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"));
        assert_eq!(all("GC"), text("CNI_PATH"));
        assert_eq!(all("STATUS"), text("CNI_PATH"));
        assert_eq!(all("VERSION").unwrap().unwrap().command, Command::Version);
        assert_eq!(all("add"), Err((4, "unknown CNI_COMMAND: add".to_owned())));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn values_are_checked() {
        let with = |name: &str, value: &str| {
            let mut variables = ADD.to_vec();
            variables.retain(|(k, _)| *k != name);
            variables.push((name, value));
            read(&variables).map(Option::unwrap)
        };
        assert_eq!(with("CNI_ARGS", "IP=10.1.2.3;IgnoreUnknown=1").unwrap().arg("IP"), Some("10.1.2.3"));
        assert_eq!(with("CNI_PATH", "/a::/b").unwrap().path, ["/a", "/b"]);
        for (name, value) in [
            ("CNI_CONTAINERID", "-x"),
            ("CNI_CONTAINERID", "a b"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", "sixteen-bytes-xx"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "a b"),
            ("CNI_ARGS", "IP"),
            ("CNI_ARGS", "=x"),
        ] {
            assert_eq!(with(name, value).unwrap_err().code, Error::INVALID_ENVIRONMENT, "{name}={value}");
        }
    }

    #[test]
    fn foreign_args_need_leave() {
        let of = |args: &str| {
            let mut variables = ADD.to_vec();
            variables.push(("CNI_ARGS", args));
            read(&variables).unwrap().unwrap().only_args(&["IP"])
        };
        assert_eq!(of("IP=10.1.2.3"), Ok(()));
        assert_eq!(of("K8S_POD_NAME=x;IgnoreUnknown=true"), Ok(()));
        assert_eq!(of("K8S_POD_NAME=x").unwrap_err().code, Error::INVALID_ENVIRONMENT);
    }
}
