//! Options from the environment, and by `vgpu_set` while the program runs.

use crate::exec::launch::{Options, Order};

/// All options.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub device: String,
    pub devices: u32,
    pub launch: Options,
    pub eager: bool,
    pub late: bool,
    pub host_time: bool,
    pub poison_nan: bool,
    /// Errors stay with the thread that caused them instead of the whole context.
    pub sticky_thread: bool,
    pub report: Option<String>,
    pub stats: Option<String>,
    pub cover: Option<String>,
    /// Model L1 and L2; `None`: where counters are asked for.
    pub caches: Option<bool>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            device: "rtx4090".to_owned(),
            devices: 1,
            launch: Options::default(),
            eager: false,
            late: false,
            host_time: false,
            poison_nan: false,
            sticky_thread: false,
            report: None,
            stats: None,
            cover: None,
            caches: None,
        }
    }
}

impl Config {
    /// From every `VGPU_` variable.
    ///
    /// # Errors
    ///
    /// The first variable that says nothing useful.
    pub fn from_env() -> Result<Config, String> {
        let mut config = Config::default();
        let mut vars: Vec<(String, String)> = std::env::vars()
            .filter(|(k, _)| k.starts_with("VGPU_"))
            .collect();
        // Where tools lie and what tests log is not the driver's business.
        vars.retain(|(k, _)| !matches!(k.as_str(), "VGPU_CUDA_BIN" | "VGPU_FORMS"));
        vars.sort();
        for (key, value) in vars {
            config.set(&key[5..], &value)?;
        }
        Ok(config)
    }

    /// Sets one option by its name without `VGPU_`.
    ///
    /// # Errors
    ///
    /// No such option, or no such value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let name = key.to_ascii_lowercase();
        let done = self
            .set_numbers(&name, value)
            .or_else(|| self.set_choices(&name, value));
        match done {
            Some(Ok(())) => Ok(()),
            Some(Err(expected)) => Err(format!(
                "VGPU_{}={value}: expected {expected}",
                key.to_ascii_uppercase()
            )),
            None => Err(format!("no option VGPU_{}", key.to_ascii_uppercase())),
        }
    }

    /// Numbers, flags, names and paths. `None` if it is none of them.
    fn set_numbers(&mut self, key: &str, value: &str) -> Option<Result<(), &'static str>> {
        let number = value.parse::<u64>().ok();
        let count = number.filter(|n| *n > 0);
        let flag = match value {
            "1" | "on" => Some(true),
            "0" | "off" | "" => Some(false),
            _ => None,
        };
        let path = (!value.is_empty()).then(|| value.to_owned());
        Some(match key {
            "device" => {
                self.device = value.to_ascii_lowercase();
                Ok(())
            }
            "devices" => give(
                &mut self.devices,
                count.map(|n| n as u32),
                "a number of devices",
            ),
            "threads" => give(
                &mut self.launch.threads,
                count.map(|n| n as usize),
                "a number of threads",
            ),
            "sample" => give(
                &mut self.launch.sample,
                number,
                "a number of blocks, 0 for all",
            ),
            "max_inst" => give(
                &mut self.launch.max_inst,
                number,
                "a number of instructions",
            ),
            "nan" => give(&mut self.launch.nan, flag, "0 or 1"),
            "caches" => give(&mut self.caches, flag.map(Some), "0 or 1"),
            "eager" => give(&mut self.eager, flag, "0 or 1"),
            "report" => give(&mut self.report, Some(path), ""),
            "stats" => give(&mut self.stats, Some(path), ""),
            "cover" => give(&mut self.cover, Some(path), ""),
            _ => return None,
        })
    }

    /// Options with words for values. `None` if it is none of them.
    fn set_choices(&mut self, key: &str, value: &str) -> Option<Result<(), &'static str>> {
        /// Whether the value is the word; `None` if it is neither the word nor the default.
        fn word(value: &str, word: &str, default: &str) -> Option<bool> {
            if value == word {
                Some(true)
            } else {
                (value == default || value.is_empty()).then_some(false)
            }
        }
        // Tensor cores add 8 products at once, Hopper's 16.
        let group = if self.device == "h100" { 16 } else { 8 };
        let truncate = word(value, "truncate", "exact").map(|t| if t { group } else { 0 });
        Some(match key {
            "order" => give(
                &mut self.launch.order,
                order(value),
                "forward, reverse or random:SEED",
            ),
            "check" => give(
                &mut self.launch.fast,
                word(value, "fast", "full"),
                "full or fast",
            ),
            "race" => give(
                &mut self.launch.race,
                word(value, "global", "off"),
                "global or off",
            ),
            "init" => give(
                &mut self.launch.shared_unwritten,
                word(value, "global", "all"),
                "global or all",
            ),
            "mma" => give(&mut self.launch.truncate, truncate, "exact or truncate"),
            "streams" => give(&mut self.late, word(value, "late", "now"), "now or late"),
            "time" => give(
                &mut self.host_time,
                word(value, "host", "model"),
                "model or host",
            ),
            "poison" => give(
                &mut self.poison_nan,
                word(value, "nan", "off"),
                "nan or off",
            ),
            "sticky" => give(
                &mut self.sticky_thread,
                word(value, "thread", "context"),
                "context or thread",
            ),
            _ => return None,
        })
    }
}

/// Sets a field if there is a value for it.
fn give<T>(field: &mut T, value: Option<T>, expected: &'static str) -> Result<(), &'static str> {
    *field = value.ok_or(expected)?;
    Ok(())
}

fn order(value: &str) -> Option<Order> {
    Some(match value {
        "forward" | "" => Order::Forward,
        "reverse" => Order::Reverse,
        "random" => Order::Random(1),
        _ => Order::Random(value.strip_prefix("random:")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_their_mistakes() {
        let mut c = Config::default();
        for (key, value) in [
            ("order", "random:7"),
            ("threads", "2"),
            ("check", "fast"),
            ("NAN", "1"),
            ("streams", "late"),
        ] {
            c.set(key, value).unwrap();
        }
        assert_eq!(c.launch.order, Order::Random(7));
        assert!(c.launch.threads == 2 && c.launch.fast && c.launch.nan && c.late);
        assert!(
            c.set("threads", "0")
                .unwrap_err()
                .contains("VGPU_THREADS=0: expected a number of threads")
        );
        assert!(
            c.set("speed", "9")
                .unwrap_err()
                .contains("no option VGPU_SPEED")
        );
    }
}
