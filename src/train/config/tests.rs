use super::*;

fn parse(text: &str) -> Result<RunConfig, ConfigError> {
    RunConfig::parse(text, Path::new("run/config.toml"))
}

fn full() -> RunConfig {
    let network = serde_json::json!({"sample_size": 16, "time_embedding_dim": null,
        "block_out_channels": [8, 16], "norm_eps": 1e-5});
    RunConfig {
        data_path: Some("/data/celeba".into()),
        attributes: Some("/data/own.csv".into()),
        from: Some("/runs/other".into()),
        seed: u64::MAX,
        network: Some(network_table(&network).unwrap()),
        ..RunConfig::new(DataKind::Celeba, "nano")
    }
}

#[test]
fn a_file_gives_back_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    for config in [full(), RunConfig::new(DataKind::Cifar10, "cifar32")] {
        config.save(&path).unwrap();
        assert_eq!(RunConfig::load(&path).unwrap(), config);
    }
    let table = full().table().unwrap();
    let keys: Vec<&str> = table.keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS, "KEYS must list every field in order");
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = parse("data = \"cifar10\"\nlr = 1\nsteps = \"64kimg\"").unwrap();
    assert_eq!(config.schedule, ScheduleSpec::CIFAR10);
    assert_eq!((config.lr, config.total_steps()), (1.0, 4000));
    assert_eq!(
        parse("data = \"faces\"\nsteps = 70").unwrap().total_steps(),
        70
    );
}

#[test]
fn mistakes_name_file_line_and_key() {
    let head = "data = \"celeba\"\n\n";
    for (text, parts) in [
        (
            "batchs = 3",
            &["config.toml:3", "`batchs`", "did you mean `batch`"][..],
        ),
        ("sample-every = 3", &["did you mean `sample_every`"]),
        ("zzzzzzzz = 3", &["expected one of program, data"]),
        (
            "batch = \"x\"",
            &["config.toml:3", "`batch`", "string", "a whole number"],
        ),
        ("batch = 0", &["config.toml:3", "`batch`", "found 0"]),
        ("batch = -1", &["`batch`", "-1"]),
        ("lr = nan", &["`lr`", "NaN", "above 0"]),
        ("betas = [0.9, 1.0]", &["`betas`", "below 1"]),
        ("betas = [0.9]", &["`betas`"]),
        ("steps = \"64kimages\"", &["`steps`", "64kimg"]),
        ("steps = 0", &["`steps`", "at least 1"]),
        ("schedule = \"constant:2\"", &["`schedule`", "below 1"]),
        (
            "schedule = \"constant:0.9:1000\"",
            &["`schedule`", "alpha-bar"],
        ),
        (
            "latent = \"fixd\"",
            &["`latent`", "fixed, fresh or gaussian"],
        ),
        ("warmup = -1", &["`warmup`", "64kimg"]),
        ("lr_schedule = \"linear\"", &["`lr_schedule`", "cosine"]),
        ("micro_batches = 0", &["`micro_batches`", "1 to the images"]),
        ("micro_batches = 17", &["`micro_batches`", "found 17"]),
        ("max_skipped = 0", &["`max_skipped`", "at least 1"]),
        ("feature_code = \"off\"", &["`feature_code`", "`none`"]),
        ("seed = -1", &["`seed`", "0 or above"]),
        ("seed = \"x\"", &["`seed`", "2^64"]),
        ("device = \"gpu\"", &["`device`", "cuda:N"]),
        ("flip = 1", &["`flip`", "true or false"]),
        (
            "classifier = \"softmax\"",
            &["`classifier`", "none", "bce", "ngmg"],
        ),
        ("classifier_weight = 0", &["`classifier_weight`", "above 0"]),
        ("ngmg_floor = -1", &["`ngmg_floor`", "0 or above"]),
        ("token_dropout = 1", &["`token_dropout`", "0 to below 1"]),
        ("batch = 1\nbatch = 2", &["config.toml:4", "TOML"]),
        ("batch = ", &["config.toml:3", "TOML"]),
    ] {
        let message = parse(&format!("{head}{text}")).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{text}: {message}");
        }
    }
    assert!(matches!(
        parse("batch = 2"),
        Err(ConfigError::Missing { key: "data", .. })
    ));
    assert!(
        parse("data = \"mnist\"")
            .unwrap_err()
            .to_string()
            .contains("celeba")
    );
    let missing = RunConfig::load(Path::new("/none/config.toml")).unwrap_err();
    assert!(missing.to_string().contains("/none/config.toml"));
    assert!(network_table(&serde_json::json!([1])).is_err());
    assert!(network_table(&serde_json::json!({"a": [null]})).is_err());
}

#[test]
fn resuming_may_change_the_way_but_not_the_work() {
    let saved = full();
    let mut wanted = RunConfig {
        program: "9".into(),
        steps: Length::Steps(5),
        device: "cpu".into(),
        precision: "auto".into(),
        threads: 3,
        max_skipped: 9,
        micro_batches: 2,
        sample_every: Length::Steps(7),
        save_every: Length::Images(9),
        ..saved.clone()
    };
    resume_difference(&saved, &wanted).unwrap();
    (wanted.batch, wanted.lr, wanted.network) = (32, 2e-4, None);
    let Err(ConfigError::ResumeDiffers(differences)) = resume_difference(&saved, &wanted) else {
        panic!("differences were not found");
    };
    let keys: Vec<_> = differences.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["batch", "lr", "network"]);
    assert_eq!(
        (
            differences[0].saved.as_str(),
            differences[0].wanted.as_str()
        ),
        ("16", "32")
    );
}

/// A rate that falls towards the run's end is another rate where the end is another.
#[test]
fn a_falling_rate_binds_the_length() {
    let falling = |steps| RunConfig {
        lr_schedule: RateSchedule::Cosine,
        warmup: Length::Images(160),
        steps: Length::Steps(steps),
        ..full()
    };
    resume_difference(&falling(100), &falling(100)).unwrap();
    let message = resume_difference(&falling(100), &falling(200)).unwrap_err();
    assert!(message.to_string().contains("steps"), "{message}");
    let rates = [0, 144, 160, 880, 1584].map(|images| falling(100).lr_at(images) / 1e-4);
    for (rate, wanted) in rates.iter().zip([0.1, 1.0, 1.0, 0.5, 0.0003]) {
        assert!((rate - wanted).abs() < 1e-4, "{rates:?}");
    }
}

#[test]
fn the_average_ramps_up_to_its_half_life() {
    let config = RunConfig::new(DataKind::Celeba, "tiny");
    assert_eq!(config.ema_decay(0), 0.0);
    assert!((config.ema_decay(16) - 0.5_f64.powf(16.0 / 0.8)).abs() < 1e-15);
    let late = config.ema_decay(100_000_000);
    assert!((late - 0.5_f64.powf(16.0 / 110_000.0)).abs() < 1e-15);
    assert!((late - 0.9999).abs() < 1e-6);
}
