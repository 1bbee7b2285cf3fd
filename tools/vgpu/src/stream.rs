//! Streams, events, capture, graphs.

use crate::driver::{Driver, Function, code};
use crate::exec::launch::{Order, next};
use crate::machine::Shape;

/// A piece of work on a stream or in a graph.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Work {
    Kernel {
        function: Function,
        shape: Shape,
        params: Vec<u8>,
    },
    ToDevice {
        to: u64,
        from: u64,
        len: u64,
    },
    ToHost {
        to: u64,
        from: u64,
        len: u64,
    },
    Within {
        to: u64,
        from: u64,
        len: u64,
    },
    Fill {
        to: u64,
        value: u32,
        width: u32,
        count: u64,
    },
    Host {
        function: usize,
        data: usize,
    },
    Record {
        event: u64,
    },
    Wait {
        event: u64,
        number: u64,
    },
    Graph {
        graph: u64,
    },
    Free {
        address: u64,
    },
    Nothing,
}

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Work that has not run, in late mode.
    pub queue: std::collections::VecDeque<Work>,
    /// The graph that it is captured into, and the nodes that the next one depends on.
    pub capture: Option<(u64, Vec<usize>)>,
    /// It started its capture itself.
    pub origin: bool,
    /// Whom its capture forbids what it does not allow: everybody (0), the thread that began it (1), or
    /// nobody (2), as `CUstreamCaptureMode` counts; and that thread.
    pub guard: Option<(i32, std::thread::ThreadId)>,
}

/// An event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// The clock when it was recorded last.
    pub time: Option<f64>,
    /// How often it was asked to be recorded, and how often it was.
    pub asked: u64,
    /// See above.
    pub done: u64,
    /// In a capture: the graph and the nodes that it stands behind.
    pub captured: Option<(u64, Vec<usize>)>,
}

/// A node of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub work: Work,
    /// The nodes before it.
    pub after: Vec<usize>,
}

/// A graph, instantiated or not.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its nodes; each only depends on earlier ones.
    pub nodes: Vec<Node>,
    /// Something illegal happened during its capture.
    pub broken: bool,
}

impl Driver {
    /// Whether any stream is being captured.
    pub fn capturing(&self) -> bool {
        self.streams.values().any(|s| s.capture.is_some())
    }

    /// Breaks the captures that forbid this thread what it just called.
    ///
    /// # Errors
    ///
    /// 900 if there was one.
    pub fn forbid_in_capture(&mut self) -> Result<(), u32> {
        let ids: Vec<u64> = self
            .streams
            .values()
            .filter(|s| match s.guard {
                Some((0, _)) => true,
                Some((1, thread)) => thread == std::thread::current().id(),
                _ => false,
            })
            .filter_map(|s| s.capture.as_ref().map(|c| c.0))
            .collect();
        for id in &ids {
            if let Some(graph) = self.graphs.get_mut(id) {
                graph.broken = true;
            }
        }
        if ids.is_empty() {
            Ok(())
        } else {
            Err(code::CAPTURE_UNSUPPORTED)
        }
    }

    /// Puts work on a stream: captured, queued or executed at once.
    ///
    /// # Errors
    ///
    /// An earlier kernel's error, a broken capture, or what the work itself gives.
    pub fn submit(&mut self, stream: u64, work: Work) -> Result<(), u32> {
        self.healthy()?;
        let late = self.config.late;
        if stream == 0
            && self.capturing()
            && self.streams.get(&0).is_some_and(|s| s.capture.is_none())
        {
            self.forbid_in_capture()?;
        }
        let state = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
        if let Some((id, after)) = &mut state.capture {
            let graph = self.graphs.get_mut(id).ok_or(code::INVALID_HANDLE)?;
            if graph.broken {
                return Err(code::CAPTURE_INVALIDATED);
            }
            graph.nodes.push(Node {
                work,
                after: std::mem::take(after),
            });
            after.push(graph.nodes.len() - 1);
            return Ok(());
        }
        if late {
            state.queue.push_back(work);
            return Ok(());
        }
        self.perform(work)?;
        if self.config.eager {
            self.healthy()
        } else {
            Ok(())
        }
    }

    /// Executes one piece of work.
    ///
    /// # Errors
    ///
    /// What a copy out of bounds gives. A kernel's error stays for later calls.
    pub fn perform(&mut self, work: Work) -> Result<(), u32> {
        match work {
            Work::Kernel {
                function,
                shape,
                params,
            } => {
                if self.healthy().is_ok() {
                    self.execute(&function, shape, &params);
                }
            }
            Work::Host { function, data } => {
                // SAFETY: `cuLaunchHostFunc` was given this function and its argument.
                unsafe {
                    let f: unsafe extern "C" fn(*mut std::ffi::c_void) =
                        std::mem::transmute(function);
                    f(data as *mut std::ffi::c_void);
                }
            }
            Work::Record { event } => {
                let now = self.time();
                if let Some(e) = self.events.get_mut(&event) {
                    (e.time, e.done) = (Some(now), e.done + 1);
                }
            }
            Work::Graph { graph } => self.replay(graph)?,
            Work::Free { address } => {
                if !self.machine.memory.free(address) {
                    return Err(code::INVALID_VALUE);
                }
            }
            Work::Wait { .. } | Work::Nothing => {}
            copy => self.transfer(&copy)?,
        }
        Ok(())
    }

    /// Executes a graph's nodes in an order that its edges allow.
    fn replay(&mut self, id: u64) -> Result<(), u32> {
        let graph = self.graphs.get(&id).cloned().ok_or(code::INVALID_HANDLE)?;
        let mut waiting: Vec<usize> = graph.nodes.iter().map(|n| n.after.len()).collect();
        let mut ready: Vec<usize> = (0..graph.nodes.len())
            .filter(|n| waiting[*n] == 0)
            .collect();
        let mut seed = self.config.launch.order.seed() ^ id;
        while !ready.is_empty() {
            let pick = match self.config.launch.order {
                Order::Forward => 0,
                Order::Reverse => ready.len() - 1,
                Order::Random(_) => (next(&mut seed) % ready.len() as u64) as usize,
            };
            let n = ready.remove(pick);
            self.perform(graph.nodes[n].work.clone())?;
            for (k, node) in graph.nodes.iter().enumerate() {
                if node.after.contains(&n) {
                    waiting[k] -= 1;
                    if waiting[k] == 0 {
                        ready.push(k);
                    }
                }
            }
            ready.sort_unstable();
        }
        Ok(())
    }

    /// In late mode, runs a stream's queue to its end, others only as far as it waits for them: work that
    /// leans on an order nobody asked for shows. `None`: all streams, the youngest first.
    ///
    /// # Errors
    ///
    /// What the work gives, or an earlier kernel's error.
    pub fn synchronise(&mut self, stream: Option<u64>) -> Result<(), u32> {
        self.forbid_in_capture()?;
        // A stream that is being captured cannot be waited for, whoever asks.
        let captured = stream.and_then(|own| self.streams.get(&own)?.capture.as_ref());
        if let Some(id) = captured.map(|c| c.0) {
            if let Some(graph) = self.graphs.get_mut(&id) {
                graph.broken = true;
            }
            return Err(code::CAPTURE_UNSUPPORTED);
        }
        loop {
            let mut moved = false;
            if let Some(own) = stream {
                moved |= self.drain(own)?;
                if self.streams.get(&own).is_none_or(|s| s.queue.is_empty()) {
                    break;
                }
            }
            let mut ids: Vec<u64> = self
                .streams
                .keys()
                .copied()
                .filter(|id| Some(*id) != stream)
                .collect();
            ids.sort_unstable();
            for id in ids.into_iter().rev() {
                moved |= self.drain(id)?;
            }
            if !moved {
                break;
            }
        }
        self.healthy()
    }

    /// Runs a stream's queue until it is empty or waits for an event. `true` if anything ran.
    fn drain(&mut self, id: u64) -> Result<bool, u32> {
        let mut moved = false;
        loop {
            let Some(front) = self.streams.get(&id).and_then(|s| s.queue.front()) else {
                return Ok(moved);
            };
            if let Work::Wait { event, number } = front
                && self.events.get(event).is_some_and(|e| e.done < *number)
            {
                return Ok(moved);
            }
            if let Some(work) = self.streams.get_mut(&id).and_then(|s| s.queue.pop_front()) {
                self.perform(work)?;
                moved = true;
            }
        }
    }

    /// Records an event on a stream.
    ///
    /// # Errors
    ///
    /// No such event or stream.
    pub fn record(&mut self, event: u64, stream: u64) -> Result<(), u32> {
        let capture = self
            .streams
            .get(&stream)
            .ok_or(code::INVALID_HANDLE)?
            .capture
            .clone();
        let e = self.events.get_mut(&event).ok_or(code::INVALID_HANDLE)?;
        if capture.is_some() {
            e.captured = capture;
            return Ok(());
        }
        e.captured = None;
        e.asked += 1;
        self.submit(stream, Work::Record { event })
    }

    /// Makes a stream wait for an event; a captured event draws the stream into its capture.
    ///
    /// # Errors
    ///
    /// No such event or stream, or an event of another capture.
    pub fn wait(&mut self, stream: u64, event: u64) -> Result<(), u32> {
        let e = self.events.get(&event).ok_or(code::INVALID_HANDLE)?.clone();
        let state = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
        match (e.captured, &mut state.capture) {
            (Some((id, nodes)), capture) if self.graphs.contains_key(&id) => {
                match capture {
                    Some((own, after)) if *own == id => after.extend(nodes),
                    Some(_) => return Err(905),
                    None => *capture = Some((id, nodes)),
                }
                Ok(())
            }
            (_, Some(_)) => Ok(()),
            _ => self.submit(
                stream,
                Work::Wait {
                    event,
                    number: e.asked,
                },
            ),
        }
    }

    /// Starts capturing a stream.
    ///
    /// # Errors
    ///
    /// The default stream, or one that is being captured.
    pub fn begin_capture(&mut self, stream: u64, mode: i32) -> Result<(), u32> {
        if stream == 0 {
            return Err(code::CAPTURE_UNSUPPORTED);
        }
        let id = self.handle();
        let state = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
        if state.capture.is_some() {
            return Err(code::INVALID_VALUE);
        }
        (state.capture, state.origin) = (Some((id, Vec::new())), true);
        state.guard = Some((mode, std::thread::current().id()));
        self.graphs.insert(id, Graph::default());
        Ok(())
    }

    /// Ends a capture; the graph's handle.
    ///
    /// # Errors
    ///
    /// No capture, a broken one, or streams that were not joined again.
    pub fn end_capture(&mut self, stream: u64) -> Result<u64, u32> {
        let state = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
        let (id, last) = state.capture.take().ok_or(901u32)?;
        (state.origin, state.guard) = (false, None);
        let mut open = Vec::new();
        for other in self.streams.values_mut() {
            if let Some((theirs, nodes)) = &other.capture
                && *theirs == id
            {
                open.extend(nodes.clone());
                other.capture = None;
            }
        }
        let graph = self.graphs.get(&id).ok_or(code::INVALID_HANDLE)?;
        let broken = graph.broken;
        let reached = |n: usize| {
            // Whether the origin's last nodes depend on node n.
            let mut stack = last.clone();
            while let Some(k) = stack.pop() {
                if k == n {
                    return true;
                }
                stack.extend(&graph.nodes[k].after);
            }
            false
        };
        let unjoined = open.iter().any(|n| !reached(*n));
        if broken || unjoined {
            self.graphs.remove(&id);
            return Err(if broken {
                code::CAPTURE_INVALIDATED
            } else {
                code::CAPTURE_UNJOINED
            });
        }
        Ok(id)
    }
}
