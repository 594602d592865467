/* jinja_time.c - strftime_now: the moment of the request as text, English names, no time zone.
 *
 * The caller gives local seconds since 1970; the calendar is the proleptic Gregorian one.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "chat/jinja_core.h"

typedef struct lp_jdate {
    int64_t year;
    int month, day; /* from 1 */
    int weekday;    /* 0 = Sunday */
    int yearday;    /* from 0 */
    int hour, minute, second;
    int64_t seconds;
} lp_jdate;

static const char *const days[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                   "Thursday", "Friday", "Saturday"};
static const char *const months[] = {"January",   "February", "March",    "April",
                                     "May",       "June",     "July",     "August",
                                     "September", "October",  "November", "December"};

static bool leap(int64_t year) {
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* Days since 1970 to a date: eras of 400 years = 146097 days, years that begin in March. */
static lp_jdate date_of(int64_t seconds) {
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t limit = 253402300799; /* the end of the year 9999 */
    if (seconds > limit) seconds = limit;
    if (seconds < 0) seconds = 0;
    int64_t z = seconds / 86400, rest = seconds % 86400;
    int64_t shifted = z + 719468, era = shifted / 146097, doe = shifted % 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    lp_jdate d = {.seconds = seconds};
    d.day = (int)(doy - (153 * mp + 2) / 5 + 1);
    d.month = (int)(mp < 10 ? mp + 3 : mp - 9);
    d.year = yoe + era * 400 + (d.month <= 2);
    d.weekday = (int)((z + 4) % 7);
    d.yearday = before[d.month - 1] + d.day - 1 + (d.month > 2 && leap(d.year));
    d.hour = (int)(rest / 3600);
    d.minute = (int)(rest / 60 % 60);
    d.second = (int)(rest % 60);
    return d;
}

/* ISO 8601: weeks begin on Monday, week 1 holds the year's first Thursday. */
static int iso_week(const lp_jdate *d, int64_t *year) {
    int weekday = (d->weekday + 6) % 7; /* Monday = 0 */
    int week = (d->yearday - weekday + 10) / 7;
    *year = d->year;
    if (week < 1) {
        *year -= 1;
        int length = leap(*year) ? 366 : 365;
        week = (d->yearday + length - weekday + 10) / 7;
    } else if (week == 53) {
        int length = leap(d->year) ? 366 : 365;
        if (d->yearday - weekday + 3 >= length) {
            week = 1;
            *year += 1;
        }
    }
    return week;
}

static void add_number(lp_jbuf *b, int64_t v, int width, char pad, char flag) {
    char text[40];
    if (flag == '-') {
        width = 0;
    } else if (flag == '_') {
        pad = ' ';
    } else if (flag == '0') {
        pad = '0';
    }
    snprintf(text, sizeof text, pad == ' ' ? "%*lld" : "%0*lld", width, (long long)v);
    lp_jbuf_add_text(b, text, true);
}

static void add_date(lp_jbuf *b, const lp_jdate *d, const char *format);

static void add_name(lp_jbuf *b, const char *name, size_t len) {
    lp_jbuf_add(b, name, NULL, true, strlen(name) < len ? strlen(name) : len);
}

static bool add_part(lp_jbuf *b, const lp_jdate *d, char c, char flag) {
    int64_t year = 0;
    int week = iso_week(d, &year), hour12 = d->hour % 12 == 0 ? 12 : d->hour % 12;
    switch (c) {
    case 'a':
        add_name(b, days[d->weekday], 3);
        break;
    case 'A':
        add_name(b, days[d->weekday], 20);
        break;
    case 'b':
    case 'h':
        add_name(b, months[d->month - 1], 3);
        break;
    case 'B':
        add_name(b, months[d->month - 1], 20);
        break;
    case 'd':
        add_number(b, d->day, 2, '0', flag);
        break;
    case 'e':
        add_number(b, d->day, 2, ' ', flag);
        break;
    case 'm':
        add_number(b, d->month, 2, '0', flag);
        break;
    case 'y':
        add_number(b, d->year % 100, 2, '0', flag);
        break;
    case 'Y':
        add_number(b, d->year, 0, '0', flag);
        break;
    case 'C':
        add_number(b, d->year / 100, 2, '0', flag);
        break;
    case 'G':
        add_number(b, year, 0, '0', flag);
        break;
    case 'g':
        add_number(b, year % 100, 2, '0', flag);
        break;
    case 'H':
        add_number(b, d->hour, 2, '0', flag);
        break;
    case 'k':
        add_number(b, d->hour, 2, ' ', flag);
        break;
    case 'I':
        add_number(b, hour12, 2, '0', flag);
        break;
    case 'l':
        add_number(b, hour12, 2, ' ', flag);
        break;
    case 'M':
        add_number(b, d->minute, 2, '0', flag);
        break;
    case 'S':
        add_number(b, d->second, 2, '0', flag);
        break;
    case 'f':
        add_number(b, 0, 6, '0', 0);
        break;
    case 'j':
        add_number(b, d->yearday + 1, 3, '0', flag);
        break;
    case 'u':
        add_number(b, d->weekday == 0 ? 7 : d->weekday, 0, '0', flag);
        break;
    case 'w':
        add_number(b, d->weekday, 0, '0', flag);
        break;
    case 'U':
        add_number(b, (d->yearday + 7 - d->weekday) / 7, 2, '0', flag);
        break;
    case 'W':
        add_number(b, (d->yearday + 7 - (d->weekday + 6) % 7) / 7, 2, '0', flag);
        break;
    case 'V':
        add_number(b, week, 2, '0', flag);
        break;
    case 'p':
        lp_jbuf_add_text(b, d->hour < 12 ? "AM" : "PM", true);
        break;
    case 'P':
        lp_jbuf_add_text(b, d->hour < 12 ? "am" : "pm", true);
        break;
    case 'Z':
    case 'z':
        break; /* a naive datetime has no zone */
    case 'n':
        lp_jbuf_add_text(b, "\n", true);
        break;
    case 't':
        lp_jbuf_add_text(b, "\t", true);
        break;
    case '%':
        lp_jbuf_add_text(b, "%", true);
        break;
    case 'c':
        add_date(b, d, "%a %b %e %H:%M:%S %Y");
        break;
    case 'x':
    case 'D':
        add_date(b, d, "%m/%d/%y");
        break;
    case 'X':
    case 'T':
        add_date(b, d, "%H:%M:%S");
        break;
    case 'R':
        add_date(b, d, "%H:%M");
        break;
    case 'r':
        add_date(b, d, "%I:%M:%S %p");
        break;
    case 'F':
        add_date(b, d, "%Y-%m-%d");
        break;
    default:
        return false;
    }
    return true;
}

/* The composite formats above: none of them holds itself. */
static void add_date(lp_jbuf *b, const lp_jdate *d, const char *format) {
    for (; *format != 0; format++) {
        if (*format == '%') {
            add_part(b, d, *++format, 0);
        } else {
            lp_jbuf_add(b, format, NULL, true, 1);
        }
    }
}

lp_jv lp_jx_strftime(lp_jx *x, const lp_jstr *format) {
    lp_jdate d = date_of(x->now);
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    size_t from = 0;
    for (size_t at = 0; at + 1 < format->len && x->code == LP_OK;) {
        if (format->data[at] != '%') {
            at++;
            continue;
        }
        size_t begin = at++;
        char flag =
            format->data[at] != 0 && strchr("-_0", format->data[at]) != NULL ? format->data[at] : 0;
        if (flag != 0 && at + 1 < format->len) at++;
        lp_jbuf_add_part(&b, format, from, begin);
        from = begin;
        if (!lp_jx_pay(x, 1)) break;
        if (add_part(&b, &d, format->data[at], flag)) from = at + 1;
        at++;
    }
    lp_jbuf_add_part(&b, format, from, format->len);
    return lp_jbuf_value(&b);
}
