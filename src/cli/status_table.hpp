// A JobStatus for people: lines of at most 100 columns.
#pragma once

#include <string>

#include <weightcast/job_status.hpp>

namespace weightcast::cli {

/// Everything: a summary, a table of each side, reasons and troubles. Ends with a newline.
std::string status_table(const JobStatus& status);
/// The summary in one line, without a newline.
std::string status_line(const JobStatus& status);

/// "850us", "99.9ms", "12.3s", "5min"; "-" for none.
std::string show_time(Duration time);
/// "512B", "12.3MiB"; "-" for none.
std::string show_bytes(std::uint64_t bytes);

}  // namespace weightcast::cli
