//! A request's seats, and its wait for them.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    FlowControl,
    config::Level,
    metrics::Flow,
    queueset::{Place, Slot},
};

/// The seats of a request that runs; dropping it gives them back.
pub struct Seat {
    control: Arc<FlowControl>,
    level: Arc<Level>,
    flow: Arc<Flow>,
    slot: Option<Slot>,
    since: Instant,
    kind: usize,
    watch: bool,
}

impl Seat {
    pub(super) fn new(control: &Arc<FlowControl>, level: &Arc<Level>, flow: &Arc<Flow>, slot: Slot, since: Instant, kind: usize, watch: bool) -> Self {
        flow.dispatched();
        control.count(since, kind, |k| &mut k.executing, true);
        Self { control: Arc::clone(control), level: Arc::clone(level), flow: Arc::clone(flow), slot: Some(slot), since, kind, watch }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let now = Instant::now();
        self.flow.executed(self.watch, now.saturating_duration_since(self.since));
        self.control.count(now, self.kind, |k| &mut k.executing, false);
        let mut set = self.level.set();
        set.finish(now, slot);
        alarm(&self.level, set.alarm());
    }
}

/// Wakes a level when seats become free that are held after requests' ends.
pub fn alarm(level: &Arc<Level>, at: Option<Instant>) {
    let Some(mut at) = at else { return };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let level = Arc::clone(level);
    runtime.spawn(async move {
        loop {
            sleep_until(at).await;
            match level.set().tick(Instant::now()) {
                Some(next) => at = next,
                None => return,
            }
        }
    });
}

/// A request that waits for its turn; dropping it gives its place up.
pub struct Turn<'a> {
    level: &'a Arc<Level>,
    place: Option<Place>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(level: &'a Arc<Level>, place: Place) -> Self {
        Self { level, place: Some(place) }
    }

    /// Its slot, if its turn comes in time.
    pub async fn wait(mut self, deadline: Instant) -> Option<Slot> {
        let place = self.place.as_mut()?;
        let slot = timeout_at(deadline, &mut place.turn).await.ok()?.ok()?;
        self.place = None;
        Some(slot)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let mut set = self.level.set();
        set.give_up(Instant::now(), place);
        alarm(self.level, set.alarm());
    }
}

/// A request that is counted among those that wait.
pub struct Waits<'a> {
    control: &'a FlowControl,
    kind: usize,
}

impl<'a> Waits<'a> {
    pub(super) fn begin(control: &'a FlowControl, kind: usize, now: Instant) -> Self {
        control.count(now, kind, |k| &mut k.waiting, true);
        Self { control, kind }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.control.count(Instant::now(), self.kind, |k| &mut k.waiting, false);
    }
}
