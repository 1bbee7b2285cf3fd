//! What can be wrong with a sampler.

/// What is wrong with a sampler, its plan or a step.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A sampler that does not exist.
    #[error("sampler `{0}` does not exist; expected renoise, ddim, ddpm, ddpm_large or dpm++2m")]
    Unknown(String),
    /// ddim's eta outside `[0, 1]`.
    #[error("sampler ddim: eta is {eta}; expected 0 (no noise) to 1 (as much as ddpm)")]
    Eta {
        /// The value given.
        eta: f64,
    },
    /// A clipping bound that is not positive.
    #[error("sampler: the clipping bound is {clip}; expected a finite number above 0, usually 1")]
    Clip {
        /// The value given.
        clip: f64,
    },
    /// Too few or too many sampling steps.
    #[error("sampler: {steps} sampling steps from t = {t_max} on; expected 1 to {t_max}")]
    Steps {
        /// Steps asked for.
        steps: u32,
        /// The diffusion step they begin at, T for a whole run.
        t_max: u32,
    },
    /// A list of steps that is not a path to where the sampler starts.
    #[error(
        "sampler: step {position} of the list is t = {t} after {before}; expected strictly increasing t from 1 on, the last one {end}"
    )]
    Path {
        /// Place in the list, from 0.
        position: usize,
        /// The t found there.
        t: u32,
        /// The t before it (0 at the start).
        before: u32,
        /// Where the list must end: the schedule's T.
        end: u32,
    },
    /// A start outside the schedule.
    #[error("sampler: the start is t = {start}; expected 1 to T = {t_max}")]
    Start {
        /// The t to start from.
        start: u32,
        /// The schedule's T.
        t_max: u32,
    },
    /// A sampler of several steps without the estimate of the step before.
    #[error(
        "sampler dpm++2m: step number {step} needs the estimate of x_0 of the step before; expected a buffer that holds it, found none"
    )]
    History {
        /// The step.
        step: usize,
    },
    /// A step the plan does not have.
    #[error("sampler: step number {step}; expected 0 to {last}")]
    StepNumber {
        /// Asked for.
        step: usize,
        /// The last one.
        last: usize,
    },
    /// Buffers that do not belong together.
    #[error("sampler: {what} holds {found} numbers; expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length of x.
        expected: usize,
    },
    /// A batch that is not a whole number of samples.
    #[error(
        "sampler: x holds {found} numbers; expected a multiple of the {per_sample} of one sample"
    )]
    PartSample {
        /// Length of x.
        found: usize,
        /// Numbers per sample.
        per_sample: usize,
    },
    /// A sample number whose stream index does not fit.
    #[error("sampler: sample number {sample}; expected numbers below 2^44")]
    SampleNumber {
        /// The number.
        sample: u64,
    },
}
