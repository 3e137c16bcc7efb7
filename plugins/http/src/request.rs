//! Reading the head of a request. The parser is strict where two lenient readers could see
//! different requests.

/// The parts of a request that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    /// Target without its query.
    pub(crate) path: &'a str,
    pub(crate) keep_alive: bool,
    /// Bytes of the head, up to and including the empty line.
    pub(crate) length: usize,
    /// Bytes of the body that follows.
    pub(crate) body: u64,
}

/// Why a request does not get a 200 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is not HTTP, or contradicts itself.
    Bad,
    /// The path does not exist.
    NotFound,
    /// The method is neither GET nor HEAD.
    Method,
    /// The client took too long to finish the request.
    Timeout,
    /// The body is larger than the plugin drops.
    BodyTooLarge,
    /// Requests arrive faster than they are answered.
    TooMany,
    /// The head is too large.
    HeadTooLarge,
    /// Only the encoding gives the length of the body.
    Encoding,
    /// The version is not HTTP/1.
    Version,
}

/// Most bytes of empty lines before a request.
const BLANK_MAX_BYTES: usize = 16;

/// Parses the head at the start of `data`. Returns `None` if its end has not arrived yet.
pub(crate) fn parse(
    data: &[u8],
    head_max: usize,
    body_max: u64,
) -> Result<Option<Head<'_>>, Problem> {
    // Some clients send empty lines after a request.
    let blank = data
        .iter()
        .take(BLANK_MAX_BYTES + 1)
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    if blank > BLANK_MAX_BYTES {
        return Err(Problem::Bad);
    }
    // Bytes beyond the limit are not searched, however many follow.
    let head_part = &data[blank..data.len().min(blank + head_max)];
    // The first line is judged first, so that the answer does not depend on how the bytes arrive.
    // Bytes that cannot become a request are refused before more of them arrive.
    let line_end = find(head_part, b"\r\n");
    let line = &head_part[..line_end.unwrap_or(head_part.len())];
    let first = first_line(line, line_end.is_some())?;
    let (Some((method, target, minor)), Some(end)) = (first, find(head_part, b"\r\n\r\n")) else {
        return if data.len() - blank > head_max { Err(Problem::HeadTooLarge) } else { Ok(None) };
    };
    let length = blank + end + 4;
    if length > head_max {
        return Err(Problem::HeadTooLarge);
    }
    // Without fields, the empty line is the end of the first line.
    let fields = head_part.get(line.len() + 2..end);
    let fields = fields.map(std::str::from_utf8).transpose().map_err(|_| Problem::Bad)?;
    let fields = Fields::read(Lines(fields))?;
    if minor == 1 && fields.hosts != 1 {
        return Err(Problem::Bad);
    }
    if fields.encoded {
        return Err(Problem::Encoding);
    }
    let body = fields.length.unwrap_or(0);
    if body > body_max {
        return Err(Problem::BodyTooLarge);
    }
    let keep_alive = if minor == 1 { !fields.close } else { fields.keep_alive && !fields.close };
    Ok(Some(Head { method, path: path(target)?, keep_alive, length, body }))
}

/// Method, target and minor version. `None` if the line has not ended and may still become valid.
fn first_line(line: &[u8], ended: bool) -> Result<Option<(&str, &str, u8)>, Problem> {
    if line.iter().any(|&byte| byte < b' ' && byte != b'\r' || byte >= 0x7f) {
        return Err(Problem::Bad);
    }
    if !ended {
        return Ok(None);
    }
    let line = std::str::from_utf8(line).map_err(|_| Problem::Bad)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Problem::Bad);
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(Problem::Bad);
    }
    let minor = match version {
        "HTTP/1.1" => 1,
        "HTTP/1.0" => 0,
        _ => {
            let digits = version.strip_prefix("HTTP/").map(str::as_bytes);
            let well_formed =
                matches!(digits, Some([a, b'.', b]) if a.is_ascii_digit() && b.is_ascii_digit());
            return Err(if well_formed { Problem::Version } else { Problem::Bad });
        }
    };
    Ok(Some((method, target, minor)))
}

fn path(target: &str) -> Result<&str, Problem> {
    let from_root = match target.strip_prefix("http://") {
        // The absolute form, which a proxy would send.
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    if !from_root.starts_with('/') {
        return Err(Problem::Bad);
    }
    let end = from_root.bytes().position(|byte| matches!(byte, b'?' | b'#'));
    Ok(&from_root[..end.unwrap_or(from_root.len())])
}

#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    encoded: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self, Problem> {
        let mut fields = Self::default();
        for line in lines {
            // Folded lines and spaces before the colon are refused: both have been used to smuggle
            // requests past a front end.
            let (name, value) = line.split_once(':').ok_or(Problem::Bad)?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(Problem::Bad);
            }
            let value = value.trim_matches([' ', '\t']);
            if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
                return Err(Problem::Bad);
            }
            if name.eq_ignore_ascii_case("host") {
                fields.hosts += 1;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                fields.encoded = true;
            } else if name.eq_ignore_ascii_case("content-length") {
                fields.set_length(value)?;
            } else if name.eq_ignore_ascii_case("connection") {
                for word in value.split(',') {
                    fields.close |= word.trim().eq_ignore_ascii_case("close");
                    fields.keep_alive |= word.trim().eq_ignore_ascii_case("keep-alive");
                }
            }
        }
        Ok(fields)
    }

    fn set_length(&mut self, value: &str) -> Result<(), Problem> {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Problem::Bad);
        }
        // A number that does not fit is larger than any allowed body.
        let length = value.parse().unwrap_or(u64::MAX);
        if self.length.is_some_and(|other| other != length) {
            return Err(Problem::Bad);
        }
        self.length = Some(length);
        Ok(())
    }
}

/// The pieces of a text between line ends. Cheaper than `str::split`, which supports longer
/// patterns.
struct Lines<'a>(Option<&'a str>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.take()?;
        let Some(end) = find(text.as_bytes(), b"\r\n") else { return Some(text) };
        self.0 = Some(&text[end + 2..]);
        Some(&text[..end])
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
