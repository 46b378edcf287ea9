//! The latest events, for listeners that come later, and the stream of those that follow.
//!
//! A listener gets what is remembered and its place in the stream under one lock, so that it misses nothing and sees
//! nothing twice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use futures_util::{Stream, stream};
use rnet_api::{ApiError, Event, EventsQuery};
use rnet_model::Kind;
use tokio::sync::{broadcast, watch};

use crate::metrics::{Counter, Registry};

/// Subject of a `repair` of the packet filter.
pub(crate) const FILTER: &str = "filter";
/// Events that are remembered.
const REMEMBERED: usize = 1024;
/// Events a slow listener may lag behind.
const BACKLOG: usize = 1024;

/// The journal of one netd.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    latest: Arc<Mutex<VecDeque<Event>>>,
    listeners: broadcast::Sender<Event>,
    registry: Registry,
    overrun: Counter,
    filter_repairs: Counter,
    stopping: watch::Receiver<bool>,
}

impl Journal {
    /// Follows the engine's events until they end. Streams end when `stopping` becomes true.
    pub(crate) fn keep(
        mut events: broadcast::Receiver<Event>,
        registry: &Registry,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let help = "Events that a slow listener has missed";
        let repairs = "Times that nf_tables was not as netd had made it, and was repaired";
        let journal = Journal {
            latest: Arc::default(),
            listeners: broadcast::channel(BACKLOG).0,
            registry: registry.clone(),
            overrun: registry.counter("rnet_events_overrun_total", help, &[]),
            filter_repairs: registry.counter("rnet_filter_repairs_total", repairs, &[]),
            stopping,
        };
        let keeper = journal.clone();
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => keeper.write(event),
                    Err(broadcast::error::RecvError::Lagged(missed)) => keeper.write(keeper.missed(missed)),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        journal
    }

    fn write(&self, event: Event) {
        let labels = [("action", event.action.as_str())];
        self.registry.counter("rnet_events_total", "Events by what happened", &labels).add(1);
        if event.action == "repair" && event.subject == FILTER {
            self.filter_repairs.add(1);
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() >= REMEMBERED {
            latest.pop_front();
        }
        latest.push_back(event.clone());
        // No listener is no failure.
        let _ = self.listeners.send(event);
    }

    fn missed(&self, count: u64) -> Event {
        self.overrun.add(count);
        Event {
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            action: "overrun".into(),
            subject: "events".into(),
            attributes: [("missed".to_owned(), count.to_string())].into(),
        }
    }

    /// Lines of JSON: what is remembered and was asked for, then what happens. A listener that is too slow is told how
    /// many it missed, and goes on.
    ///
    /// # Errors
    /// When the time is none.
    pub(crate) fn lines(
        &self,
        query: &EventsQuery,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + use<>, ApiError> {
        let since = query.since.as_deref().map(moment).transpose()?;
        let follow = query.follow.unwrap_or(true);
        let (past, receiver) = {
            let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            let after = |e: &&Event| since.is_some_and(|since| moment(&e.time).is_ok_and(|at| at >= since));
            (latest.iter().filter(after).cloned().collect::<VecDeque<_>>(), self.listeners.subscribe())
        };
        let state = (self.clone(), past, receiver);
        Ok(stream::unfold(state, move |(mut journal, mut past, mut receiver)| async move {
            let event = match past.pop_front() {
                Some(event) => event,
                None if !follow => return None,
                None => journal.next(&mut receiver).await?,
            };
            let mut line = serde_json::to_vec(&event).ok()?;
            line.push(b'\n');
            Some((Ok(Bytes::from(line)), (journal, past, receiver)))
        }))
    }

    async fn next(&mut self, receiver: &mut broadcast::Receiver<Event>) -> Option<Event> {
        let received = tokio::select! {
            received = receiver.recv() => received,
            _ = self.stopping.wait_for(|stopping| *stopping) => return None,
        };
        match received {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(self.missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

fn moment(text: &str) -> Result<jiff::Timestamp, ApiError> {
    text.parse().map_err(|e: jiff::Error| {
        ApiError::new(Kind::Invalid, format!("since: {text:?} is no time"))
            .because(&e)
            .hint("write it as 2026-01-02T03:04:05Z")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::StreamExt as _;

    use super::*;

    fn event(second: u32) -> Event {
        Event {
            time: format!("2026-01-02T03:04:{second:02}Z"),
            action: "attach".into(),
            subject: format!("web{second}"),
            attributes: std::collections::BTreeMap::new(),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    async fn subjects(journal: &Journal, query: EventsQuery, count: usize) -> Vec<String> {
        let lines: Vec<_> = Box::pin(journal.lines(&query).unwrap()).take(count).collect().await;
        let subject =
            |line: Result<Bytes, Infallible>| serde_json::from_slice::<Event>(&line.unwrap()).unwrap().subject;
        lines.into_iter().map(subject).collect()
    }

    #[test]
    fn the_past_then_the_present_and_an_end() {
        runtime().block_on(async {
            let (sender, receiver) = broadcast::channel(16);
            let (stop, stopping) = watch::channel(false);
            let registry = Registry::default();
            let journal = Journal::keep(receiver, &registry, stopping);
            (1..=3).for_each(|n| journal.write(event(n)));
            let past =
                |second: &str| EventsQuery { since: Some(format!("2026-01-02T03:04:{second}Z")), follow: Some(false) };
            assert_eq!(subjects(&journal, past("02"), 9).await, ["web2", "web3"]);
            assert_eq!(subjects(&journal, past("04"), 9).await, [""; 0]);
            let follow = EventsQuery { since: Some("2026-01-02T03:04:03Z".into()), follow: None };
            let both = tokio::join!(subjects(&journal, follow, 2), async { sender.send(event(4)).unwrap() });
            assert_eq!(both.0, ["web3", "web4"]);
            stop.send(true).unwrap();
            assert_eq!(subjects(&journal, EventsQuery::default(), 1).await, [""; 0], "it ends with netd");
            let wrong = EventsQuery { since: Some("yesterday".into()), follow: None };
            assert_eq!(journal.lines(&wrong).err().unwrap().kind, Kind::Invalid);
            assert!(registry.render().contains("rnet_events_total{action=\"attach\"} 4\n"), "{}", registry.render());
        });
    }

    #[test]
    fn a_slow_listener_is_told_what_it_missed() {
        runtime().block_on(async {
            let (_sender, receiver) = broadcast::channel(16);
            let (_stop, stopping) = watch::channel(false);
            let registry = Registry::default();
            let journal = Journal::keep(receiver, &registry, stopping);
            let mut slow = Box::pin(journal.lines(&EventsQuery::default()).unwrap());
            (0..BACKLOG + 7).for_each(|_| journal.write(event(1)));
            let first: Event = serde_json::from_slice(&slow.next().await.unwrap().unwrap()).unwrap();
            assert_eq!((first.action.as_str(), first.attributes["missed"].as_str()), ("overrun", "7"));
            assert!(registry.render().contains("rnet_events_overrun_total 7\n"));
            assert_eq!(journal.latest.lock().unwrap().len(), REMEMBERED);
        });
    }
}
