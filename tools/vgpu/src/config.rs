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
        let mut vars: Vec<(String, String)> = std::env::vars().filter(|(k, _)| k.starts_with("VGPU_")).collect();
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
        let bad = |expected: &str| Err(format!("VGPU_{}={value}: expected {expected}", key.to_ascii_uppercase()));
        let flag = || match value {
            "1" | "on" => Some(true),
            "0" | "off" | "" => Some(false),
            _ => None,
        };
        let number = || value.parse::<u64>().ok();
        let path = || (!value.is_empty()).then(|| value.to_owned());
        match key.to_ascii_lowercase().as_str() {
            "device" => self.device = value.to_ascii_lowercase(),
            "devices" => self.devices = match number() { Some(n) if n > 0 => n as u32, _ => return bad("a number of devices") },
            "threads" => self.launch.threads = match number() { Some(n) if n > 0 => n as usize, _ => return bad("a number of threads") },
            "max_inst" => self.launch.max_inst = match number() { Some(n) => n, None => return bad("a number of instructions") },
            "order" => self.launch.order = match order(value) { Some(o) => o, None => return bad("forward, reverse or random:SEED") },
            "check" => self.launch.fast = match value { "fast" => true, "full" | "" => false, _ => return bad("full or fast") },
            "race" => self.launch.race = match value { "global" => true, "" | "off" => false, _ => return bad("global or off") },
            "nan" => match flag() { Some(f) => self.launch.nan = f, None => return bad("0 or 1") },
            "mma" => self.launch.truncate = match value {
                "truncate" => if self.device == "h100" { 16 } else { 8 },
                "exact" | "" => 0,
                _ => return bad("exact or truncate"),
            },
            "eager" => match flag() { Some(f) => self.eager = f, None => return bad("0 or 1") },
            "streams" => self.late = match value { "late" => true, "now" | "" => false, _ => return bad("now or late") },
            "time" => self.host_time = match value { "host" => true, "model" | "" => false, _ => return bad("model or host") },
            "poison" => self.poison_nan = match value { "nan" => true, "" => false, _ => return bad("nan") },
            "sticky" => self.sticky_thread = match value { "thread" => true, "context" | "" => false, _ => return bad("context or thread") },
            "report" => self.report = path(),
            "stats" => self.stats = path(),
            "cover" => self.cover = path(),
            _ => return Err(format!("no option VGPU_{}", key.to_ascii_uppercase())),
        }
        Ok(())
    }
}

fn order(value: &str) -> Option<Order> {
    Some(match value {
        "forward" | "" => Order::Forward,
        "reverse" => Order::Reverse,
        "random" => Order::Random(1),
        _ => Order::Random(value.strip_prefix("random:")?.parse().ok()?),
    })
}
