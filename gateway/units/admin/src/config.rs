//! Where the operator's door is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::fault::{Fault, Faults, Path};

/// Where the operator's door is: a loopback address, or a Unix socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address to listen on. Default: 127.0.0.1:9901, unless there is a socket. Port 0 takes a free one.
    #[schemars(example = "127.0.0.1:9901")]
    pub address: Option<SocketAddr>,
    /// The path of a Unix socket to listen on instead. A socket that nobody listens on any more is replaced.
    pub socket: Option<PathBuf>,
    /// Who may open the socket, as octal permissions in quotes. Default: "0600", only the gateway's own user.
    #[schemars(regex(pattern = "^0?[0-7]{3}$"), example = "0660")]
    pub mode: Option<String>,
    /// Host names by which the server may be asked for beside IP addresses and `localhost`. Default: none. A name is
    /// refused because any web page can let its own name point to this machine.
    pub hosts: Vec<String>,
    /// Allows an address that is not loopback. There is no authentication: whoever reaches it can reload the configuration
    /// and read all pages. Meant for pods, where probes and scrapes come over the network. Default: no.
    pub dangerously_allow_remote: bool,
}

/// The address where none is configured.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

impl Config {
    /// Reports every fault at once.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        if let (Some(_), Some(_)) = (self.address, &self.socket) {
            let fault = Fault::error(&at.key("socket"), "an address and a socket are given: expected one of them");
            faults.push(fault.help("remove the one that is not meant"));
        }
        if let Some(address) = self.address.filter(|address| !address.ip().is_loopback()) {
            let place = at.key("address");
            if self.dangerously_allow_remote {
                let risk = format!("{address} is not loopback: whoever reaches it can reload the configuration");
                faults.warning(&place, risk);
            } else {
                let fault = Fault::error(&place, format!("{address} is not a loopback address"));
                let help = "use 127.0.0.1 or a socket; with dangerously_allow_remote: true it is allowed";
                faults.push(fault.help(help));
            }
        }
        match (&self.socket, &self.mode) {
            (Some(path), _) if !path.is_absolute() => {
                faults.error(&at.key("socket"), format!("{} is not an absolute path", path.display()));
            }
            // What fits into `sun_path` of unix(7), with its closing zero.
            (Some(path), _) if path.as_os_str().len() > 107 => {
                let length = path.as_os_str().len();
                faults.error(&at.key("socket"), format!("the path has {length} bytes: expected at most 107"));
            }
            (None, Some(_)) => faults.error(&at.key("mode"), "a mode is given without a socket"),
            _ => {}
        }
        if let Some(mode) = &self.mode
            && self.permissions().is_none()
        {
            let shown: String = mode.chars().take(16).collect();
            faults.error(
                &at.key("mode"),
                format!("{shown:?} is not a mode: expected octal permissions such as \"0660\""),
            );
        }
    }

    /// The socket's permissions; none where they are not octal.
    pub(crate) fn permissions(&self) -> Option<u32> {
        let text = self.mode.as_deref().unwrap_or("0600");
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn told(config: &Config) -> Vec<String> {
        let mut faults = Faults::new();
        config.validate(&Path::root(), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_that_others_reach_must_be_asked_for_by_its_frightening_name() {
        let mut config = Config { address: Some("0.0.0.0:9901".parse().unwrap()), ..Config::default() };
        assert_eq!(
            told(&config),
            ["address: 0.0.0.0:9901 is not a loopback address \
              (use 127.0.0.1 or a socket; with dangerously_allow_remote: true it is allowed)"]
        );
        config.dangerously_allow_remote = true;
        let mut faults = Faults::new();
        config.validate(&Path::root(), &mut faults);
        assert!(!faults.has_errors() && !faults.is_empty());
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let config = Config {
            address: Some("127.0.0.1:1".parse().unwrap()),
            socket: Some("relative".into()),
            mode: Some("999".to_owned()),
            ..Config::default()
        };
        assert_eq!(told(&config).len(), 3, "{:?}", told(&config));
        assert!(told(&Config::default()).is_empty());
    }
}
