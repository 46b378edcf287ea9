//! Persistent tap devices: /dev/net/tun, not route netlink (linux/if_tun.h,
//! Documentation/networking/tuntap.rst).
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::Netns;
use crate::links::{NewTap, Queues};

const IFF_TAP: libc::c_short = 0x0002;
const IFF_MULTI_QUEUE: libc::c_short = 0x0100;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
/// IFF_TUN_EXCL, 0x8000: without it a device that is there is attached to.
const IFF_TUN_EXCL: libc::c_short = libc::c_short::MIN;

mod ioctl {
    // All four are _IOW('T', number, int), whatever they are given.
    nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, size_of::<i32>()), libc::ifreq);
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<i32>()));
    nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, size_of::<i32>()));
    nix::ioctl_write_int_bad!(set_group, nix::request_code_write!(b'T', 206, size_of::<i32>()));
}

/// Makes it in `ns`; the error is an errno. A failure leaves nothing: a device that is not persistent goes with its
/// descriptor.
pub(super) fn make(tap: &NewTap, ns: &Netns) -> Result<(), i32> {
    ns.run(|| here(tap)).map_err(|e| e.errno)?.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
}

fn here(tap: &NewTap) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
    attach(&file, tap)?;
    let fd = file.as_raw_fd();
    let number = |id: u32| libc::c_int::try_from(id).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    if let Some(owner) = tap.owner {
        // SAFETY: the descriptor is open; TUNSETOWNER takes its argument by value.
        unsafe { ioctl::set_owner(fd, number(owner)?) }?;
    }
    if let Some(group) = tap.group {
        // SAFETY: the descriptor is open; TUNSETGROUP takes its argument by value.
        unsafe { ioctl::set_group(fd, number(group)?) }?;
    }
    // SAFETY: the descriptor is open; TUNSETPERSIST takes its argument by value.
    unsafe { ioctl::set_persist(fd, 1) }?;
    Ok(())
}

fn attach(file: &File, tap: &NewTap) -> io::Result<()> {
    // SAFETY: ifreq is made of numbers and unions of numbers and pointers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A name is at most 15 bytes, so that a zero is left at the end.
    for (to, from) in request.ifr_name.iter_mut().zip(tap.name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL;
    if tap.queues == Queues::Several {
        flags |= IFF_MULTI_QUEUE;
    }
    if tap.vnet_header.is_on() {
        flags |= IFF_VNET_HDR;
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the descriptor is open and the request lives across the call, which reads and writes one ifreq.
    match unsafe { ioctl::set_iff(file.as_raw_fd(), &raw const request) } {
        Ok(_) => Ok(()),
        // tun_set_iff: EBUSY for a tun device of that name, EINVAL for another one.
        Err(nix::errno::Errno::EBUSY) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
        Err(e) => Err(e.into()),
    }
}
