//! Launches in order, run one by one or as one CUDA graph, on one stream or two: the second begins behind the
//! first and is waited for at the end, and between the two events keep the order where it matters.

use super::branch::Route;
use super::context::{Cuda, Lane};
use super::error::CudaError;
use super::kernel::Launch;
use super::nvtx::Nvtx;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph};
use std::sync::Arc;
use std::time::Duration;

/// How a launch takes its turn.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    lane: Lane,
    /// Number of the event that it waits for.
    after: Option<usize>,
    /// Number of the event that tells that it is over.
    done: Option<usize>,
}

/// A list of launches whose arguments never change.
pub struct Program {
    cuda: Arc<Cuda>,
    launches: Vec<(usize, Launch)>,
    turns: Vec<Turn>,
    /// Events of the turns; behind them those of the second stream's beginning and end, if it has work.
    events: Vec<CudaEvent>,
    graph: Option<CudaGraph>,
    runs: usize,
}

// SAFETY: a graph may be used by one thread at a time, and every use takes `&mut self`.
unsafe impl Send for Program {}

impl Program {
    /// Launches, each with its node's number, one after the other.
    pub fn new(cuda: Arc<Cuda>, launches: Vec<(usize, Launch)>) -> Self {
        Self {
            cuda,
            turns: vec![Turn::default(); launches.len()],
            launches,
            events: Vec::new(),
            graph: None,
            runs: 0,
        }
    }

    /// Launches, each with the number of its node, which takes its route.
    ///
    /// # Errors
    /// The driver's.
    pub fn branched(
        cuda: Arc<Cuda>,
        launches: Vec<(usize, Launch)>,
        routes: &[Route],
    ) -> Result<Self, CudaError> {
        let mut program = Self::new(cuda.clone(), launches);
        let events = program.take_turns(routes);
        cuda.bind()?;
        program.events = (0..events)
            .map(|_| cuda.check("make an event", cuda.context().new_event(None)))
            .collect::<Result<_, _>>()?;
        Ok(program)
    }

    /// Gives every launch its turn; how many events that takes.
    fn take_turns(&mut self, routes: &[Route]) -> usize {
        let mut events = 0;
        for i in 0..self.launches.len() {
            let node = self.launches[i].0;
            let Route { beside, after } = routes[node];
            self.turns[i].lane = if beside { Lane::Branch } else { Lane::Main };
            let first = i == 0 || self.launches[i - 1].0 != node;
            let Some(after) = after.filter(|_| first) else {
                continue;
            };
            // The streams run in order, so the last launch there that is no later says enough.
            let mut earlier = self.launches[..i].iter();
            let before = earlier.rposition(|(n, _)| *n <= after && routes[*n].beside != beside);
            self.turns[i].after = before.map(|j| {
                *self.turns[j].done.get_or_insert_with(|| {
                    events += 1;
                    events - 1
                })
            });
        }
        let branches = self.turns.iter().any(|t| t.lane == Lane::Branch);
        events + if branches { 2 } else { 0 }
    }

    /// The launches, each with its node's number.
    pub fn launches(&self) -> &[(usize, Launch)] {
        &self.launches
    }

    /// Runs all of them: the first time one by one, later, if `graph`, as one graph. Returns before they
    /// are done.
    ///
    /// # Errors
    /// The driver's.
    pub fn run(&mut self, graph: bool) -> Result<(), CudaError> {
        self.cuda.bind()?;
        self.runs += 1;
        if !graph || self.runs == 1 || self.launches.is_empty() {
            return self.run_plain();
        }
        if self.graph.is_none() {
            self.graph = self.capture()?;
        }
        match &self.graph {
            Some(graph) => self.cuda.check("replay the graph", graph.launch()),
            None => self.run_plain(),
        }
    }

    /// [`Program::run`], and waits: the time it took on the device.
    ///
    /// # Errors
    /// The driver's, and what a kernel did wrong.
    pub fn run_clocked(&mut self, graph: bool) -> Result<Duration, CudaError> {
        self.cuda.bind()?;
        // The first run loads, the second captures: neither shows what a step takes.
        while graph && self.runs < 2 {
            self.run(graph)?;
        }
        let cuda = self.cuda.clone();
        let mark = || {
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            cuda.check("time a step", cuda.stream().record_event(flags))
        };
        let start = mark()?;
        self.run(graph)?;
        let end = mark()?;
        self.cuda.synchronize()?;
        let ms = self.cuda.check("time a step", start.elapsed_ms(&end))?;
        Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
    }

    fn run_plain(&self) -> Result<(), CudaError> {
        self.fork()?;
        (0..self.launches.len()).try_for_each(|i| self.issue(i))?;
        self.join()
    }

    /// The second stream begins behind everything that was asked of the first.
    fn fork(&self) -> Result<(), CudaError> {
        match self.events.len().checked_sub(2) {
            Some(start) => {
                self.record(start, Lane::Main)?;
                self.wait(start, Lane::Branch)
            }
            None => Ok(()),
        }
    }

    /// What will be asked of the first stream comes behind everything of the second.
    fn join(&self) -> Result<(), CudaError> {
        match self.events.len().checked_sub(1) {
            Some(end) => {
                self.record(end, Lane::Branch)?;
                self.wait(end, Lane::Main)
            }
            None => Ok(()),
        }
    }

    fn record(&self, event: usize, lane: Lane) -> Result<(), CudaError> {
        let recorded = self.events[event].record(self.cuda.lane(lane));
        self.cuda.check("mark a stream", recorded)
    }

    fn wait(&self, event: usize, lane: Lane) -> Result<(), CudaError> {
        let waits = self.cuda.lane(lane).wait(&self.events[event]);
        self.cuda.check("wait for a stream", waits)
    }

    /// Queues launch `i` in its turn.
    fn issue(&self, i: usize) -> Result<(), CudaError> {
        let Turn { lane, after, done } = self.turns[i];
        let launch = &self.launches[i].1;
        match after {
            Some(event) => {
                self.wait(event, lane)?;
                self.cuda.launch_late(launch, lane)?;
            }
            None => self.cuda.launch(launch, lane)?,
        }
        done.map_or(Ok(()), |event| self.record(event, lane))
    }

    /// Runs all of them one by one, those of a node inside a range that `name` names.
    ///
    /// # Errors
    /// The driver's.
    pub fn run_marked(&self, nvtx: &Nvtx, name: impl Fn(usize) -> String) -> Result<(), CudaError> {
        self.cuda.bind()?;
        self.fork()?;
        let mut i = 0;
        for group in self.launches.chunk_by(|a, b| a.0 == b.0) {
            let mut launches = i..i + group.len();
            nvtx.range(&name(group[0].0), || {
                launches.try_for_each(|i| self.issue(i))
            })?;
            i += group.len();
        }
        self.join()
    }

    /// Runs the launches of `node` alone.
    ///
    /// # Errors
    /// The driver's.
    pub fn run_node(&self, node: usize) -> Result<(), CudaError> {
        self.cuda.bind()?;
        self.launches
            .iter()
            .filter(|(n, _)| *n == node)
            .try_for_each(|(_, launch)| self.cuda.launch(launch, Lane::Main))
    }

    /// Runs all of them one by one, and waits: the time that each of `nodes` nodes took on the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn run_timed(&self, nodes: usize) -> Result<Vec<Duration>, CudaError> {
        let mut times = vec![Duration::ZERO; nodes];
        for ((node, _), time) in self.launches.iter().zip(self.time_launches()?) {
            times[*node] += time;
        }
        Ok(times)
    }

    /// Runs all of them one by one, and waits: the time that each took on the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn time_launches(&self) -> Result<Vec<Duration>, CudaError> {
        self.cuda.bind()?;
        let stream = self.cuda.stream();
        let mark = || {
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            self.cuda.check("time a kernel", stream.record_event(flags))
        };
        let mut marks = Vec::with_capacity(self.launches.len() + 1);
        marks.push(mark()?);
        for (_, launch) in &self.launches {
            self.cuda.launch(launch, Lane::Main)?;
            marks.push(mark()?);
        }
        self.cuda.synchronize()?;
        marks
            .windows(2)
            .map(|pair| {
                let ms = self
                    .cuda
                    .check("time a kernel", pair[0].elapsed_ms(&pair[1]))?;
                Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
            })
            .collect()
    }

    fn capture(&self) -> Result<Option<CudaGraph>, CudaError> {
        let stream = self.cuda.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.cuda
            .check("begin a graph", stream.begin_capture(mode))?;
        let recorded = self.run_plain();
        // The capture ends whether or not recording failed: an open one would spoil the stream.
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        recorded?;
        let graph = self.cuda.check("make a graph", graph)?;
        if let Some(graph) = &graph {
            self.cuda.check("upload the graph", graph.upload())?;
        }
        Ok(graph)
    }
}
