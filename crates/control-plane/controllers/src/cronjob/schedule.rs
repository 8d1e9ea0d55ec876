//! Cron schedules: five fields, names, ranges, steps, and the `@` forms. Pure: time zones are read, the clock is not.

use jiff::civil::{Date, time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// A schedule that does not parse, in the words of the library that upstream uses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidSchedule(String);

/// When things happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// At the minutes that match, in a time zone.
    Fields(Fields),
    /// So many seconds after the last time.
    Every(i64),
}

/// One set of allowed values per field, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, and of the week, are restricted: if both are, one of them is enough.
    day_restricted: bool,
    weekday_restricted: bool,
    zone: TimeZone,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// How far ahead a match is looked for: 30 February never comes.
const HORIZON_DAYS: i32 = 5 * 366;

impl Schedule {
    /// Reads a schedule. `zone` is the time zone it is meant in.
    pub(crate) fn parse(text: &str, zone: &TimeZone) -> Result<Self, InvalidSchedule> {
        let invalid = |why: String| InvalidSchedule(why);
        let expanded = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(every) = expanded.strip_prefix("@every ") {
            let seconds =
                podium_api::duration::parse(every.trim()).map(|every| every.as_secs()).ok_or_else(|| {
                    invalid(format!("failed to parse duration @every {every}: invalid duration"))
                })?;
            return Ok(Self::Every(seconds.max(1)));
        }
        if expanded.starts_with('@') {
            return Err(invalid(format!("unrecognized descriptor: {text}")));
        }
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(invalid(format!(
                "expected exactly 5 fields, found {}: [{}]",
                fields.len(),
                fields.join(" ")
            )));
        };
        let restricted = |field: &str| !field.starts_with(['*', '?']);
        Ok(Self::Fields(Fields {
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, &MONTHS)?,
            // Sunday is 0, and 7 is not known to upstream's parser.
            weekdays: bits(weekdays, 0, 6, &WEEKDAYS)?,
            day_restricted: restricted(days),
            weekday_restricted: restricted(weekdays),
            zone: zone.clone(),
        }))
    }

    /// The first time after `after`; `None` when there is none within five years.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => Timestamp::from_second(after.as_second().checked_add(*seconds)?).ok(),
            Self::Fields(fields) => fields.next(after),
        }
    }

    /// The latest of its times up to `now`. `first` is one of them.
    pub(crate) fn latest(&self, first: Timestamp, now: Timestamp) -> Timestamp {
        match self {
            // Only these depend on where one begins.
            Self::Every(seconds) => {
                let times = (now.as_second() - first.as_second()) / seconds;
                Timestamp::from_second(first.as_second() + times * seconds).unwrap_or(first)
            }
            Self::Fields(fields) => latest(|after| fields.next(after), first, now),
        }
    }
}

/// The latest time up to `now`, found by halving: one after the other would take seconds after a year of sleep. `first` is one of
/// the times, and all of them are whole seconds.
pub(super) fn latest(
    next: impl Fn(Timestamp) -> Option<Timestamp>,
    first: Timestamp,
    now: Timestamp,
) -> Timestamp {
    let following = |second: i64| {
        let after = Timestamp::from_second(second).ok()?;
        next(after).filter(|time| *time <= now)
    };
    // It comes after `low` and not after `high`.
    let (mut low, mut high) = (first.as_second(), now.as_second());
    let Some(mut found) = following(low) else { return first };
    // Mostly it is not long ago, so the halving begins at the end.
    let mut step = 60;
    while high - low > 1 {
        let middle = (low + (high - low) / 2).max(high - step);
        step *= 2;
        match following(middle) {
            Some(time) => (low, found) = (middle, time),
            None => high = middle,
        }
    }
    found
}

impl Fields {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let begin = after.to_zoned(self.zone.clone()).date();
        // The day before, because a day can begin twice where clocks are set back over midnight.
        let mut date = begin.yesterday().ok()?;
        for _ in 0..HORIZON_DAYS {
            if self.matches(date)
                && let Some(found) = self.on(date, after)
            {
                return Some(found);
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let has = |set: u64, number: i8| set & (1 << number) != 0;
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let day = has(self.days, date.day());
        let either = self.day_restricted && self.weekday_restricted;
        has(self.months, date.month()) && if either { day || weekday } else { day && weekday }
    }

    /// The first matching minute of the day after `after`. Minutes that the clock skips do not happen; those that it repeats
    /// happen twice, as upstream.
    fn on(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let hours = (0..24i8).filter(|hour| self.hours & (1 << hour) != 0);
        hours
            .flat_map(|hour| (0..60i8).map(move |minute| (hour, minute)))
            .filter(|(_, minute)| self.minutes & (1 << minute) != 0)
            .flat_map(|(hour, minute)| {
                let ambiguous = self.zone.to_ambiguous_timestamp(date.to_datetime(time(hour, minute, 0, 0)));
                let moments = match ambiguous.offset() {
                    AmbiguousOffset::Gap { .. } => [None, None],
                    AmbiguousOffset::Unambiguous { .. } => [ambiguous.earlier().ok(), None],
                    AmbiguousOffset::Fold { .. } => [ambiguous.earlier().ok(), ambiguous.later().ok()],
                };
                moments.into_iter().flatten()
            })
            .filter(|moment| *moment > after)
            // Not the first found: in an hour that comes twice moments are not in the order of the clock.
            .min()
    }
}

/// One field: a list of values, ranges and steps.
fn bits(field: &str, lowest: u32, highest: u32, names: &[&str]) -> Result<u64, InvalidSchedule> {
    let mut all = 0;
    for part in field.split(',') {
        all |= range(part, lowest, highest, names)?;
    }
    Ok(all)
}

fn range(part: &str, lowest: u32, highest: u32, names: &[&str]) -> Result<u64, InvalidSchedule> {
    let invalid = |why: String| InvalidSchedule(why);
    let number = |text: &str| -> Result<u32, InvalidSchedule> {
        let lower = text.to_ascii_lowercase();
        if let Some(position) = names.iter().position(|name| *name == lower) {
            return Ok(position as u32 + lowest);
        }
        text.parse().map_err(|_| invalid(format!("failed to parse int from {text}: invalid syntax")))
    };
    let (span, step) = match part.split_once('/') {
        Some((span, step)) => (span, Some(number(step)?)),
        None => (part, None),
    };
    let (first, last) = match span.split_once('-') {
        _ if span == "*" || span == "?" => (lowest, highest),
        Some((first, last)) => (number(first)?, number(last)?),
        // A single value with a step goes on to the end.
        None if step.is_some() => (number(span)?, highest),
        None => (number(span)?, number(span)?),
    };
    let step = step.unwrap_or(1);
    if first < lowest {
        return Err(invalid(format!("beginning of range ({first}) below minimum ({lowest}): {part}")));
    }
    if last > highest {
        return Err(invalid(format!("end of range ({last}) above maximum ({highest}): {part}")));
    }
    if first > last {
        return Err(invalid(format!("beginning of range ({first}) beyond end of range ({last}): {part}")));
    }
    if step == 0 {
        return Err(invalid(format!("step of range should be a positive number: {part}")));
    }
    Ok((first..=last).step_by(step as usize).fold(0, |bits, number| bits | (1 << number)))
}
