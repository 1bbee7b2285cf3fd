//! Capture and graphs.

use super::memory::stream;
use super::{driver, put, string};
use crate::driver::{code, with};
use crate::machine::Shape;
use crate::stream::Work;
use std::ffi::{c_char, c_int, c_uint, c_void};

/// `CUDA_KERNEL_NODE_PARAMS_v2` as far as it is read here.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNode {
    function: u64,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

driver! {
    fn cuGraphExecKernelNodeSetParams_v2(exec: u64, node: u64, params: *const KernelNode) {
        let p = super::take(params)?;
        with(|d| {
            let shape = Shape { grid: p.grid, block: p.block, dynamic: p.shared, cooperative: false };
            let work = super::module::kernel_work(d, p.function, shape, p.params, p.extra)?;
            let graph = d.graphs.get_mut(&exec).ok_or(code::INVALID_HANDLE)?;
            // A node's handle ends in its number, counted from 1.
            let number = (node & 0xffff_ffff).wrapping_sub(1) as usize;
            let node = graph.nodes.get_mut(number).ok_or(code::INVALID_HANDLE)?;
            if !matches!(node.work, Work::Kernel { .. }) { return Err(code::INVALID_VALUE); }
            node.work = work;
            Ok(())
        })
    }

    fn cuStreamBeginCapture_v2(on: u64, mode: c_int) {
        with(|d| d.begin_capture(stream(on), mode))
    }

    fn cuStreamEndCapture(on: u64, graph: *mut u64) {
        with(|d| {
            let id = d.end_capture(stream(on));
            if id.is_err() { put(graph, 0)?; }
            put(graph, id?)
        })
    }

    fn cuStreamIsCapturing(on: u64, status: *mut c_int) {
        with(|d| {
            let s = d.streams.get(&stream(on)).ok_or(code::INVALID_HANDLE)?;
            // 0 none, 1 active, 2 invalidated
            let broken = |id: &u64| d.graphs.get(id).is_some_and(|g| g.broken);
            put(status, s.capture.as_ref().map_or(0, |(id, _)| if broken(id) { 2 } else { 1 }))
        })
    }

    fn cuStreamGetCaptureInfo_v2(
        on: u64, status: *mut c_int, id: *mut u64, graph: *mut u64, nodes: *mut *const u64, count: *mut usize,
    ) {
        with(|d| {
            let s = d.streams.get(&stream(on)).ok_or(code::INVALID_HANDLE)?;
            put(status, c_int::from(s.capture.is_some()))?;
            let own = s.capture.as_ref().map_or(0, |c| c.0);
            if !id.is_null() { put(id, own)?; }
            if !graph.is_null() { put(graph, own)?; }
            if !nodes.is_null() { put(nodes, std::ptr::null())?; }
            if count.is_null() { Ok(()) } else { put(count, 0) }
        })
    }

    fn cuGraphInstantiateWithFlags(exec: *mut u64, graph: u64, _flags: u64) {
        with(|d| {
            let g = d.graphs.get(&graph).ok_or(code::INVALID_HANDLE)?.clone();
            let handle = d.handle();
            d.graphs.insert(handle, g);
            put(exec, handle)
        })
    }

    fn cuGraphLaunch(exec: u64, on: u64) {
        with(|d| {
            if !d.graphs.contains_key(&exec) { return Err(code::INVALID_HANDLE); }
            d.submit(stream(on), Work::Graph { graph: exec })
        })
    }

    fn cuGraphUpload(exec: u64, _on: u64) {
        with(|d| if d.graphs.contains_key(&exec) { Ok(()) } else { Err(code::INVALID_HANDLE) })
    }

    fn cuGraphDestroy(graph: u64) {
        with(|d| d.graphs.remove(&graph).map(|_| ()).ok_or(code::INVALID_HANDLE))
    }

    fn cuGraphExecDestroy(exec: u64) {
        with(|d| {
            d.synchronise(None)?;
            d.graphs.remove(&exec).map(|_| ()).ok_or(code::INVALID_HANDLE)
        })
    }

    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) {
        with(|d| {
            let g = d.graphs.get(&graph).ok_or(code::INVALID_HANDLE)?;
            if !nodes.is_null() {
                let room = super::take(count)?;
                for n in 0..g.nodes.len().min(room) {
                    // A node's handle: its graph's, and its number.
                    put(nodes.wrapping_add(n), (graph << 32) | (n as u64 + 1))?;
                }
            }
            put(count, g.nodes.len())
        })
    }

    fn cuGraphDebugDotPrint(graph: u64, path: *const c_char, _flags: c_uint) {
        let path = string(path)?;
        with(|d| {
            let g = d.graphs.get(&graph).ok_or(code::INVALID_HANDLE)?;
            let mut text = String::from("digraph graph_ {\n");
            for (n, node) in g.nodes.iter().enumerate() {
                let name = match &node.work {
                    Work::Kernel { function, .. } => function.name.clone(),
                    Work::ToDevice { len, .. } | Work::ToHost { len, .. } | Work::Within { len, .. } => format!("copy of {len} bytes"),
                    Work::Fill { width, count, .. } => format!("fill of {} bytes", u64::from(*width) * count),
                    other => format!("{other:?}").split([' ', '{']).next().unwrap_or("").to_lowercase(),
                };
                text += &format!("  n{n} [label=\"{name}\"];\n");
                for before in &node.after {
                    text += &format!("  n{before} -> n{n};\n");
                }
            }
            std::fs::write(path, text + "}\n").map_err(|_| code::UNKNOWN)
        })
    }
}
