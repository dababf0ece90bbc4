//! Which files a model may take the place of.

use onnx_protobuf::{StringStringEntryProto, TensorProto};
use qcc_onnx::{External, WriteError, WriteOptions, check_places, write};

use crate::build::{Folder, model, product};

/// A model that has its weight in the file `w.bin`, all bytes of which are `byte`.
fn with_data(byte: u8) -> Folder {
    let mut graph = product();
    let location =
        StringStringEntryProto { key: Some("location".into()), value: Some("w.bin".into()) };
    graph.initializer[0] = TensorProto {
        dims: vec![2, 2],
        data_type: Some(1),
        name: Some("w".into()),
        external_data: vec![location],
        data_location: Some(1),
        ..TensorProto::default()
    };
    let folder = Folder::of(&model(graph));
    std::fs::write(folder.path("w.bin"), [byte; 16]).unwrap();
    folder
}

fn forced() -> WriteOptions {
    WriteOptions { overwrite: true, ..WriteOptions::default() }
}

#[test]
fn data_of_another_model_is_not_replaced() {
    let (first, second, out) = (with_data(1), with_data(2), tempfile::TempDir::new().unwrap());
    let (a, b, data) =
        (out.path().join("a.onnx"), out.path().join("b.onnx"), out.path().join("w.bin"));
    let read = first.read().unwrap();
    write(&read.graph, &read.source, &a, &WriteOptions::default()).unwrap();

    let other = second.read().unwrap();
    for options in [WriteOptions::default(), forced()] {
        let refused = write(&other.graph, &other.source, &b, &options);
        assert!(matches!(refused, Err(WriteError::NotItsData { .. })), "{refused:?}");
        assert_eq!(std::fs::read(&data).unwrap(), [1; 16]);
        assert!(!b.exists());
    }

    // The model that reads the data is replaced with it.
    write(&other.graph, &other.source, &a, &forced()).unwrap();
    assert_eq!(std::fs::read(&data).unwrap(), [2; 16]);
}

#[test]
fn a_file_in_the_place_of_new_data_is_not_replaced() {
    let folder = Folder::of(&model(product()));
    let read = folder.read().unwrap();
    let out = folder.path("out.onnx");
    std::fs::write(folder.path("out.onnx.data"), "precious").unwrap();
    let refused = check_places(&read.source, &out, External::Always, true);
    assert!(matches!(refused, Err(WriteError::NotItsData { .. })), "{refused:?}");
    std::fs::write(&out, "no model").unwrap();
    let refused = check_places(&read.source, &out, External::Always, true);
    assert!(matches!(refused, Err(WriteError::NotItsData { .. })), "{refused:?}");
    check_places(&read.source, &out, External::Never, true).unwrap();
}
