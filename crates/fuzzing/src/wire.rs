//! Frames and messages.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kybern_dns::message;
use kybern_streaming::spdy::Frame;
use kybern_streaming::spdy::header::Inflater;
use kybern_streaming::websocket::{Channels, accept};
use tokio::io::AsyncWriteExt;

pub(crate) fn spdy(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut inflater = Inflater::default();
    while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
        let mut written = BytesMut::new();
        frame.encode(&mut written);
        let _ = Frame::decode(&mut written).expect("a frame that was written can be read");
        if let Frame::SynStream { block, .. } | Frame::SynReply { block, .. } | Frame::Headers { block, .. } = frame
            && inflater.decode(&block).is_err()
        {
            return;
        }
    }
    let _ = Inflater::default().decode(data);
}

pub(crate) fn websocket(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for base64 in [false, true] {
            let (near, mut far) = tokio::io::duplex(64 << 10);
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(4);
            let inputs = BTreeMap::from([(0, sender.clone()), (4, sender)]);
            let mut channels = Channels::new(accept(near).await, base64, true, inputs);
            let send = async {
                let _ = far.write_all(data).await;
                let _ = far.shutdown().await;
                // Answers to pings must find room.
                let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
            };
            let read = async { while receiver.recv().await.is_some() {} };
            tokio::select! {
                () = channels.closed() => {}
                ((), ()) = async { tokio::join!(send, read) } => {}
            }
        }
    });
}

pub(crate) fn dns(data: &[u8]) {
    if let Ok(query) = message::parse_query(data) {
        let _ = (query.name(), query.udp_limit(), query.encode(1));
        let _ = message::bad_version(&query);
        let _ = message::answers(data, &query, 1);
        let mut answer = data.to_vec();
        message::readdress(&mut answer, &query);
        let _ = message::encode(&query, &message::Answer::code(0), true, 512);
    }
    let _ = message::address_records(data);
    let _ = message::after_question(data);
    for at in [0, 12, data.len() / 2, data.len(), data.len() + 1] {
        let _ = (message::read_record(data, at), message::read_name(data, at));
    }
    for limit in [0, 12, 512] {
        message::truncate(&mut data.to_vec(), limit);
    }
}
