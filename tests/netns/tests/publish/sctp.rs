//! SCTP, where the kernel has it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, listen, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use rnet_kernel::Netns;
use rnet_netns_harness::run;

use super::HOST;
use super::stage::Bed;

/// A socket of the one-to-one style (sctp(7)): the calls are those of TCP.
fn sctp(netns: &Netns) -> nix::Result<OwnedFd> {
    let new = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp);
    let socket = netns.run(new).unwrap()?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(2, 0))?;
    Ok(socket)
}

/// What the server says to who connects.
fn ask(netns: &Netns, at: &str) -> std::io::Result<String> {
    let socket = sctp(netns)?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(at.parse::<SocketAddrV4>().unwrap()))?;
    let mut said = [0; 16];
    let length = TcpStream::from(socket).read(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..length]).into_owned())
}

#[test]
fn associations() {
    run(|world| {
        let bed = Bed::new(world);
        let Ok(server) = sctp(&bed.web.netns) else { return println!("skipped: no SCTP") };
        bind(server.as_raw_fd(), &SockaddrIn::from("0.0.0.0:7000".parse::<SocketAddrV4>().unwrap())).unwrap();
        listen(&server, Backlog::new(4).unwrap()).unwrap();
        let serve = std::thread::spawn(move || {
            // Ends when nobody has come for a while.
            while let Ok((mut stream, _)) = TcpListener::accept(&TcpListener::from(server.try_clone().unwrap())) {
                stream.write_all(b"web").unwrap();
            }
        });
        assert!(ask(&bed.peer.netns, &format!("{HOST}:7001")).is_err(), "before it is published");
        bed.host.rnet("publish web 7001:7000/sctp").ok();
        assert_eq!(ask(&bed.peer.netns, &format!("{HOST}:7001")).unwrap(), "web");
        assert_eq!(ask(&bed.host.netns, &format!("{HOST}:7001")).unwrap(), "web", "from the host");
        assert_eq!(bed.host.rnet("port web").ok().out, "7000/sctp -> 0.0.0.0:7001\n7000/sctp -> [::]:7001\n");
        bed.host.rnet("unpublish web 7001:7000/sctp").ok();
        assert!(ask(&bed.peer.netns, &format!("{HOST}:7001")).is_err(), "after unpublish");
        serve.join().unwrap();
    });
}
