//! Launches in order, run one by one or as one CUDA graph.

use super::context::Cuda;
use super::error::CudaError;
use super::kernel::Launch;
use super::nvtx::Nvtx;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::sync::Arc;
use std::time::Duration;

/// A list of launches whose arguments never change.
pub struct Program {
    cuda: Arc<Cuda>,
    launches: Vec<(usize, Launch)>,
    graph: Option<CudaGraph>,
    runs: usize,
}

// SAFETY: a graph may be used by one thread at a time, and every use takes `&mut self`.
unsafe impl Send for Program {}

impl Program {
    /// Launches, each with its node's number.
    pub fn new(cuda: Arc<Cuda>, launches: Vec<(usize, Launch)>) -> Self {
        Self {
            cuda,
            launches,
            graph: None,
            runs: 0,
        }
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
        self.launches
            .iter()
            .try_for_each(|(_, launch)| self.cuda.launch(launch))
    }

    /// Runs all of them one by one, those of a node inside a range that `name` names.
    ///
    /// # Errors
    /// The driver's.
    pub fn run_marked(&self, nvtx: &Nvtx, name: impl Fn(usize) -> String) -> Result<(), CudaError> {
        self.cuda.bind()?;
        for group in self.launches.chunk_by(|a, b| a.0 == b.0) {
            nvtx.range(&name(group[0].0), || {
                let mut launches = group.iter();
                launches.try_for_each(|(_, launch)| self.cuda.launch(launch))
            })?;
        }
        Ok(())
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
            .try_for_each(|(_, launch)| self.cuda.launch(launch))
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
            self.cuda.launch(launch)?;
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
