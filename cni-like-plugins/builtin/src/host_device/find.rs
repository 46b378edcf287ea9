//! Which device of the host is meant.

use std::fs;
use std::path::{Path, PathBuf};

use rnet_kernel::{LinkKind, LinkState, Links};
use rnet_model::{IfName, MacAddr};
use rnet_plugin_protocol::{Error, Request};
use serde::Deserialize;

/// Drivers of user space.
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    device: String,
    hwaddr: String,
    kernelpath: String,
    #[serde(rename = "pciBusID")]
    pci_bus_id: String,
}

/// How the device is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    Name(IfName),
    Mac(MacAddr),
    /// Below /sys/devices, without "/sys/".
    Folder(PathBuf),
    /// A device of the PCI or of the auxiliary bus.
    Bus(String),
}

/// Checked.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) selector: Selector,
    /// Where sysfs is.
    pub(super) sysfs: PathBuf,
    /// The device on a bus, even if it is selected by something else.
    bus_id: Option<String>,
}

impl Config {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        let written: Written = request.config()?;
        let id = request.runtime.device_id.as_deref().filter(|id| !id.is_empty()).unwrap_or(&written.pci_bus_id);
        if id.contains('/') || id.starts_with('.') {
            return Err(Error::config(format!("{id:?} is no address of a device")));
        }
        let selector = if !written.device.is_empty() {
            Selector::Name(written.device.parse()?)
        } else if !written.hwaddr.is_empty() {
            Selector::Mac(written.hwaddr.replace('-', ":").parse()?)
        } else if !written.kernelpath.is_empty() {
            Selector::Folder(folder(&written.kernelpath)?)
        } else if id.is_empty() {
            return Err(Error::config("specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\""));
        } else {
            Selector::Bus(id.to_owned())
        };
        let bus_id = Some(id.to_owned()).filter(|id| !id.is_empty());
        Ok(Config { selector, sysfs: PathBuf::from("/sys"), bus_id })
    }

    /// The PCI address, if it is given.
    pub(super) fn pci(&self) -> Option<&str> {
        self.bus_id.as_deref().filter(|id| self.on_bus("pci", id).exists())
    }

    /// The host's name for it, if that is how it is selected.
    pub(super) fn name(&self) -> Option<&IfName> {
        match &self.selector {
            Selector::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Whether a device in a container, whose alias says what the host called it, may be the one of this configuration.
    pub(super) fn may_be(&self, link: &LinkState, alias: &IfName) -> bool {
        match &self.selector {
            Selector::Name(name) => name == alias,
            Selector::Mac(mac) => link.mac == Some(*mac),
            // Of the hardware's folders one sees only the host's devices. Containers make no device without a kind.
            Selector::Folder(_) | Selector::Bus(_) => link.kind == LinkKind::Physical,
        }
    }

    fn on_bus(&self, bus: &str, id: &str) -> PathBuf {
        self.sysfs.join("bus").join(bus).join("devices").join(id)
    }

    /// Whether a driver of user space has the device, so that the kernel has no interface for it.
    ///
    /// # Errors
    /// When there is no such device, or no driver has it.
    pub(super) fn in_user_space(&self) -> Result<bool, Error> {
        let Some(id) = &self.bus_id else { return Ok(false) };
        if self.on_bus("auxiliary", id).exists() {
            return Ok(false);
        }
        let link = self.on_bus("pci", id).join("driver");
        let driver = fs::canonicalize(&link)
            .map_err(|e| Error::internal(format!("error with host device: {}: {e}", link.display())))?;
        Ok(driver.file_name().and_then(|n| n.to_str()).is_some_and(|name| USERSPACE.contains(&name)))
    }

    /// The device.
    ///
    /// # Errors
    /// When the host has no such device.
    pub(super) fn find(&self, links: &mut dyn Links) -> Result<LinkState, Error> {
        let found = match &self.selector {
            Selector::Name(name) => links.link(name)?,
            Selector::Mac(mac) => links.links()?.into_iter().find(|l| l.mac == Some(*mac)),
            Selector::Folder(folder) => first(&[self.sysfs.join(folder)], links)?,
            Selector::Bus(id) => {
                let pci = self.on_bus("pci", id);
                let mut folders = vec![pci.clone(), self.on_bus("auxiliary", id)];
                folders.extend(entries(&pci).into_iter().filter(|e| e.starts_with("virtio")).map(|e| pci.join(e)));
                first(&folders, links)?
            }
        };
        found.ok_or_else(|| {
            Error::internal(format!("failed to find host device: {}", self.selector.text()))
                .details("it may be in a container already")
        })
    }
}

impl Selector {
    fn text(&self) -> String {
        match self {
            Selector::Name(name) => name.to_string(),
            Selector::Mac(mac) => mac.to_string(),
            Selector::Folder(folder) => format!("/sys/{}", folder.display()),
            Selector::Bus(id) => id.clone(),
        }
    }
}

/// A path below /sys/devices, as one relative to /sys.
fn folder(text: &str) -> Result<PathBuf, Error> {
    let path = Path::new(text).strip_prefix("/sys").ok();
    let plain = |p: &&Path| p.starts_with("devices") && p.components().all(|c| c.as_os_str() != "..");
    path.filter(plain).map(Path::to_path_buf).ok_or_else(|| {
        Error::config(format!("kernel device path {text:?} must be absolute and begin with /sys/devices/"))
    })
}

/// Names in a folder, in order; none if there is no such folder.
fn entries(folder: &Path) -> Vec<String> {
    let read = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = read.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The first interface of these devices that is there.
fn first(devices: &[PathBuf], links: &mut dyn Links) -> Result<Option<LinkState>, Error> {
    for name in devices.iter().flat_map(|d| entries(&d.join("net"))) {
        if let Ok(name) = name.parse::<IfName>()
            && let Some(link) = links.link(&name)?
        {
            return Ok(Some(link));
        }
    }
    Ok(None)
}
