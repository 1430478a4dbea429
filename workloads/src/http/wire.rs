//! A socket that remembers what it received, so that an answer which is not
//! right can be kept whole and a lost connection can be explained.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What came over a connection since the current request began.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Every byte.
    pub(super) bytes: Vec<u8>,
    /// The other side sent FIN.
    pub(super) eof: bool,
    /// The first error of the socket.
    pub(super) error: Option<io::ErrorKind>,
    /// More came than any right answer has.
    pub(super) too_long: bool,
    /// Our port.
    pub(super) local_port: Option<u16>,
    /// The connection was established.
    pub(super) connected: bool,
}

/// The above, shared between the socket and who asks.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    received: Arc<Mutex<Received>>,
    most: usize,
}

impl Wire {
    /// For answers of at most so many bytes; a longer one is ended.
    pub(super) fn new(most: usize) -> Wire {
        Wire {
            received: Arc::default(),
            most,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps a connected socket.
    pub(super) fn tap(&self, stream: TcpStream) -> Tap {
        let mut received = self.lock();
        received.local_port = stream.local_addr().ok().map(|a: SocketAddr| a.port());
        received.connected = true;
        drop(received);
        Tap {
            stream,
            wire: self.clone(),
        }
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Tap {
    stream: TcpStream,
    wire: Wire,
}

impl Tap {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(e)) = &result {
            self.wire.lock().error.get_or_insert(e.kind());
        }
        result
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = result {
            let new = &buf.filled()[before..];
            let mut received = self.wire.lock();
            received.bytes.extend_from_slice(new);
            received.eof |= new.is_empty() && buf.remaining() > 0;
            if received.bytes.len() > self.wire.most {
                received.too_long = true;
                return Poll::Ready(Err(io::Error::other("the answer is too long")));
            }
        }
        self.note(result)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Its errors say nothing about the answer.
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
