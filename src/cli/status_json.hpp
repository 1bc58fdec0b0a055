// A JobStatus as JSON (docs/status.md).
#pragma once

#include <string>

#include <weightcast/job_status.hpp>

namespace weightcast::cli {

/// @param indent spaces a level; -1: all on one line
std::string status_json(const JobStatus& status, int indent);
std::string failure_json(const Status& failure, int indent);

}  // namespace weightcast::cli
