//! The network learns, and comes back from its file.

use super::*;
use crate::data::{ProceduralFaces, open_or_pack};
use crate::device::pool::Pool;

fn faces(folder: &Path) -> Arc<Packed> {
    let faces = ProceduralFaces::new(2, 1000);
    Arc::new(open_or_pack(&faces, 16, folder, &mut |_| ()).unwrap())
}

fn device(threads: usize) -> Device {
    Arc::new(Pool::new(threads).unwrap()).into()
}

/// The squared error of a constant guess of the right share is share (1 - share), summed over the
/// attributes.
#[test]
fn it_learns_what_a_constant_guess_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let (data, device) = (faces(folder.path()), device(2));
    let config = config(DataKind::Faces, None, 400, 1);
    let mut losses = Vec::new();
    let mut watch = |_, _, loss| {
        losses.push(loss);
        true
    };
    let mut trained = AttributeClassifier::train(&config, &data, &device, &mut watch).unwrap();
    assert!(
        (losses[0] - 2.0_f64.ln()).abs() < 1e-6,
        "a new network gives every attribute a half"
    );
    let held_out = trained.held_out().clone();
    let bases = held_out.attributes.iter().map(Tally::base);
    let constant: f64 = bases.map(|b| b * (1.0 - b)).sum();
    assert!(
        held_out.sse() < 0.85 * constant,
        "SSE {} of a constant's {constant}",
        held_out.sse()
    );
    let path = folder.path().join("net.safetensors");
    trained.save(&path).unwrap();
    let mut read = AttributeClassifier::load(&path, &config, &data, &device)
        .unwrap()
        .unwrap();
    assert_eq!(read.held_out().attributes, held_out.attributes);
    // JSON's numbers come back to a last digit.
    assert!((read.held_out().sse() / held_out.sse() - 1.0).abs() < 1e-12);
    // A batch and a part of one.
    let pictures: Vec<u8> = (0..40).flat_map(|i| data.image(i)).copied().collect();
    let (one, other) = (
        trained.look(&pictures).unwrap(),
        read.look(&pictures).unwrap(),
    );
    assert_eq!(one, other);
    assert_eq!(one.probabilities.len(), 40 * 40);
    assert_eq!(one.features.len(), 40 * trained.features());
    let alone = trained.look(data.image(35)).unwrap();
    assert_eq!(alone.probabilities, one.probabilities[35 * 40..36 * 40]);
    let longer = super::config(DataKind::Faces, None, 251, 1);
    let other = AttributeClassifier::load(&path, &longer, &data, &device).unwrap();
    assert!(other.is_none(), "another configuration is another network");
}

#[test]
fn stopping_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (data, device) = (faces(folder.path()), device(1));
    let config = config(DataKind::Faces, None, 5, 1);
    let stopped = AttributeClassifier::train(&config, &data, &device, &mut |_, _, _| false);
    assert!(matches!(stopped, Err(AttributeError::Stopped)));
}

#[test]
fn one_of_many_is_the_most_probable() {
    let net = AttributeNet::new(8, 3);
    let names = ["a", "b", "c"].map(String::from).to_vec();
    let config = config(DataKind::Cifar10, None, 1, 0);
    let named = |one_hot: bool| {
        let net = AttributeNet::new(net.size(), 3);
        let state = State::default();
        let names = (names.clone(), one_hot);
        let ready = AttributeClassifier::ready(net, config.clone(), names, state, &device(1));
        ready.unwrap().attributes(&[0.1, 0.3, 0.2, 0.9, 0.6, 0.1])
    };
    assert_eq!(named(true), [false, true, false, true, false, false]);
    assert_eq!(named(false), [false, false, false, true, true, false]);
}
