//! Flows that run while something else happens, and how many of their packets were lost.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use rnet_kernel::Netns;

use crate::bed::wait_for;

const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);

/// What the flows saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

/// Echo requests in flight between two namespaces.
#[derive(Debug)]
pub(crate) struct Flows {
    stop: Arc<AtomicBool>,
    stop_server: Arc<AtomicBool>,
    client: JoinHandle<anyhow::Result<Seen>>,
    server: JoinHandle<()>,
}

impl Flows {
    /// `count` flows from `from` to the echo server `at` in `to`, a packet each 10 ms. All have had an answer when this
    /// returns: packets that wait for the neighbour's address are not part of the question.
    pub(crate) fn start(count: usize, from: &Netns, to: &Netns, at: SocketAddr) -> anyhow::Result<Self> {
        let server = to.run(|| UdpSocket::bind(at))?.with_context(|| format!("cannot listen at {at}"))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let open = || -> std::io::Result<Vec<UdpSocket>> {
            (0..count)
                .map(|_| {
                    let socket = UdpSocket::bind("0.0.0.0:0")?;
                    socket.connect(at)?;
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                })
                .collect()
        };
        let sockets = from.run(open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let stop_server = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let (server_stop, client_stop, counter) = (stop_server.clone(), stop.clone(), answered.clone());
        let server = std::thread::spawn(move || {
            let mut packet = [0; 64];
            while !server_stop.load(Ordering::Relaxed) {
                // A time-out only leads to another look at `stop`.
                if let Ok((length, peer)) = server.recv_from(&mut packet) {
                    let _ = server.send_to(&packet[..length], peer);
                }
            }
        });
        let client = std::thread::spawn(move || send(sockets, &client_stop, &counter));
        let all = || Ok(answered.load(Ordering::Relaxed) == count);
        wait_for("the first answer on every flow", LIMIT, Duration::from_millis(1), all)?;
        Ok(Flows { stop, stop_server, client, server })
    }

    /// Ends the flows when every packet sent has been answered or given up.
    pub(crate) fn finish(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.client.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        // Not before the last packets have been answered.
        self.stop_server.store(true, Ordering::Relaxed);
        self.server.join().map_err(|_| anyhow::anyhow!("the echo server panicked"))?;
        Ok(seen)
    }
}

fn send(sockets: Vec<UdpSocket>, stop: &Arc<AtomicBool>, answered: &Arc<AtomicUsize>) -> anyhow::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for socket in sockets {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            let (stop, answered) = (stop.clone(), answered.clone());
            tasks.push(tokio::spawn(async move {
                let mut seen = Seen::default();
                let mut every = tokio::time::interval(EVERY);
                while exchange(&socket, 0).await.is_none() {}
                answered.fetch_add(1, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    every.tick().await;
                    seen.sent += 1;
                    if exchange(&socket, seen.sent).await.is_none() {
                        seen.lost += 1;
                    }
                }
                seen
            }));
        }
        let mut total = Seen::default();
        for task in tasks {
            let seen = task.await?;
            total.sent += seen.sent;
            total.lost += seen.lost;
        }
        Ok(total)
    })
}

/// One packet there and back; `None` when it did not come in time.
async fn exchange(socket: &tokio::net::UdpSocket, number: u64) -> Option<()> {
    let packet = number.to_be_bytes();
    let both = async {
        socket.send(&packet).await.ok()?;
        let mut answer = [0; 8];
        // A late answer to a packet that was given up is not the one waited for.
        while socket.recv(&mut answer).await.ok()? != 8 || answer != packet {}
        Some(())
    };
    tokio::time::timeout(PATIENCE, both).await.ok().flatten()
}
