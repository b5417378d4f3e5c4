//! A small XML element tree: what SOAP needs and no more.
//!
//! Namespace prefixes are dropped on reading: vim25 has one namespace, and `xsi:type` values are told apart by name.
//! Attributes other than `xsi:type` and a reference's `type` carry nothing in vim25 and are not kept.

use std::fmt::Write as _;

use quick_xml::events::{BytesStart, Event};

/// vSphere refuses deeper documents ("XML element depth exceeds 100"), and so do we.
pub const MAX_DEPTH: usize = 100;

/// An element with either text or children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Local part of `xsi:type`.
    pub xsi_type: Option<String>,
    /// The `type` attribute of a managed object reference.
    pub kind: Option<String>,
    /// Character data, concatenated; meaningless white space of elements with children included.
    pub text: String,
    /// Child elements in order.
    pub children: Vec<Element>,
}

/// Why a text is not an element tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// The parser refuses it.
    #[error("not well-formed XML at byte {position}: {reason}")]
    Syntax {
        /// Byte offset.
        position: u64,
        /// What the parser says.
        reason: String,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("XML element depth exceeds {MAX_DEPTH}")]
    TooDeep,
    /// Ends before the first element is closed.
    #[error("the XML document ends early")]
    Incomplete,
}

impl Element {
    /// An empty element.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// An element with text.
    pub fn with_text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), ..Self::default() }
    }

    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`] when it is not well-formed, cut off or nested too deeply.
    pub fn parse(text: &str) -> Result<Self, XmlError> {
        let mut reader = quick_xml::Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        let mut open: Vec<Self> = Vec::new();
        loop {
            let event = reader.read_event();
            let position = reader.error_position();
            let syntax = |reason: String| XmlError::Syntax { position, reason };
            match event.map_err(|e| syntax(e.to_string()))? {
                Event::Start(tag) => {
                    if open.len() == MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    open.push(start(&tag).map_err(syntax)?);
                }
                Event::Text(t) => {
                    if let Some(e) = open.last_mut() {
                        e.text.push_str(&t.xml10_content());
                    }
                }
                Event::CData(t) => {
                    if let Some(e) = open.last_mut() {
                        e.text.push_str(&t.xml10_content());
                    }
                }
                Event::GeneralRef(r) => {
                    if let Some(e) = open.last_mut() {
                        match r.resolve_char_ref() {
                            Ok(Some(c)) => e.text.push(c),
                            _ => {
                                let known = quick_xml::escape::resolve_xml_entity(r.as_ref());
                                e.text.push_str(known.ok_or_else(|| syntax("unknown entity".into()))?);
                            }
                        }
                    }
                }
                Event::End(_) => {
                    let Some(mut done) = open.pop() else { return Err(syntax("unexpected end tag".into())) };
                    if !done.children.is_empty() {
                        done.text.clear();
                    }
                    match open.last_mut() {
                        Some(parent) => parent.children.push(done),
                        None => return Ok(done),
                    }
                }
                Event::Eof => return Err(XmlError::Incomplete),
                _ => {}
            }
        }
    }

    /// Appends the element to `out`.
    pub fn write(&self, out: &mut String) {
        let _ = write!(out, "<{}", self.name);
        if let Some(kind) = &self.kind {
            let _ = write!(out, " type=\"{}\"", quick_xml::escape::escape(kind));
        }
        if let Some(t) = &self.xsi_type {
            let prefix = if is_xsd(t) { "xsd:" } else { "" };
            let _ = write!(out, " xsi:type=\"{prefix}{}\"", quick_xml::escape::escape(t));
        }
        if self.text.is_empty() && self.children.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        if self.children.is_empty() {
            // XML 1.0 cannot carry other control characters, and a bare CR would be read back as LF.
            for c in self.text.chars() {
                match c {
                    '&' => out.push_str("&amp;"),
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '\r' => out.push_str("&#13;"),
                    '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
                    _ => out.push('\u{fffd}'),
                }
            }
        }
        for c in &self.children {
            c.write(out);
        }
        let _ = write!(out, "</{}>", self.name);
    }
}

/// Names of XML Schema's own types, which stand in another namespace than vim25's.
pub fn is_xsd(name: &str) -> bool {
    matches!(
        name,
        "string"
            | "boolean"
            | "byte"
            | "short"
            | "int"
            | "long"
            | "float"
            | "double"
            | "dateTime"
            | "base64Binary"
            | "anyURI"
            | "anyType"
    )
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn start(tag: &BytesStart<'_>) -> Result<Element, String> {
    let mut element = Element::new(local(tag.name().as_ref()));
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|e| e.to_string())?;
        match attribute.key.as_ref() {
            "type" => element.kind = Some(value.into_owned()),
            key if local(key) == "type" => element.xsi_type = Some(local(&value).to_owned()),
            _ => {}
        }
    }
    Ok(element)
}
