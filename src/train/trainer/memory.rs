//! Memory that a run takes, for a line of metrics.

use crate::device::Gpu;
use crate::device::memory::peak_resident_bytes;

/// The host's at its largest so far; what the run holds of a GPU's, and what the driver says is in use there, by
/// everybody.
pub(super) fn measured(gpu: Option<&Gpu>) -> impl Iterator<Item = (String, f64)> {
    let host = peak_resident_bytes();
    let held = gpu.map(|gpu| gpu.cuda.held() as u64);
    let used = gpu.and_then(Gpu::used).map(|bytes| bytes as u64);
    let named = [
        ("peak_rss_bytes", host),
        ("gpu_held_bytes", held),
        ("gpu_used_bytes", used),
    ];
    let known = named
        .into_iter()
        .filter_map(|(name, bytes)| Some((name, bytes?)));
    known.map(|(name, bytes)| (name.to_owned(), bytes as f64))
}
