//! One request of HTTP/1.1 (RFC 9112), in the clear.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::CheckError;
use crate::config::Url;

/// Most that is read of a body, and of the head of a response.
pub(super) const BODY_MOST: usize = 64 * 1024;
const HEAD_MOST: usize = 16 * 1024;
const HEADERS_MOST: usize = 100;

/// How a response goes on after its head.
struct Head {
    status: u16,
    length: usize,
    chunked: bool,
    content_length: Option<usize>,
}

/// Asks for `url`; fails unless the answer has that status, and that text in its body.
///
/// # Errors
///
/// [`CheckError`]: there is no answer, or another one.
pub(super) async fn get(url: &Url, status: u16, body: Option<&str>) -> Result<(), CheckError> {
    let mut stream = TcpStream::connect(url.address).await?;
    stream.set_zero_linger()?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hb\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        url.path, url.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::with_capacity(2048);
    let head = loop {
        if let Some(head) = head(&read)? {
            break head;
        }
        if read.len() > HEAD_MOST {
            return Err(CheckError::NoHttp("its head is too long".to_owned()));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(CheckError::NoHttp("it ends in its head".to_owned()));
        }
    };
    if head.status != status {
        return Err(CheckError::Status { found: head.status, wanted: status });
    }
    let Some(text) = body else { return Ok(()) };
    loop {
        let rest = &read[head.length..];
        let (found, complete) = match (head.chunked, head.content_length) {
            (true, _) => unchunked(rest)?,
            (false, Some(length)) => (rest.to_vec(), rest.len() >= length),
            (false, None) => (rest.to_vec(), false),
        };
        if contains(&found, text) {
            return Ok(());
        }
        if complete || rest.len() > BODY_MOST || stream.read_buf(&mut read).await? == 0 {
            return Err(CheckError::Body(text.to_owned()));
        }
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Reads the head of a response once it is complete.
fn head(read: &[u8]) -> Result<Option<Head>, CheckError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MOST];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(read).map_err(|error| CheckError::NoHttp(error.to_string()))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
        length,
        chunked: value("transfer-encoding")
            .is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked")),
        content_length: value("content-length").and_then(|length| length.trim().parse().ok()),
    }))
}

/// Returns what the chunks that are there hold, and whether the last one is among them.
fn unchunked(mut rest: &[u8]) -> Result<(Vec<u8>, bool), CheckError> {
    let mut body = Vec::new();
    loop {
        let parsed = httparse::parse_chunk_size(rest)
            .map_err(|_| CheckError::NoHttp("a chunk of its body has no size".to_owned()))?;
        let httparse::Status::Complete((start, size)) = parsed else { return Ok((body, false)) };
        if size == 0 {
            return Ok((body, true));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let chunk = &rest[start..];
        body.extend_from_slice(&chunk[..chunk.len().min(size)]);
        // Behind it there is an end of line.
        let Some(after) = size.checked_add(2).and_then(|end| chunk.get(end..)) else {
            return Ok((body, false));
        };
        rest = after;
    }
}
