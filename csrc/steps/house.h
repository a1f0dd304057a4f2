// Printed by tgo_kernels/printer.py: the steps of the house, in the order of their numbers.
#pragma once

#include "ad_lif.h"
#include "adaptive_lif.h"
#include "homeostatic_lif.h"
#include "inhibited_lif.h"
#include "integer_lif.h"
#include "lif.h"
#include "oscillating_lif.h"
#include "self_predicting_lif.h"
#include "synaptic_lif.h"
#include "ternary_lif.h"

namespace tgo {

using Neurons = House<
    Lif,
    AdaptiveLif,
    SynapticLif,
    AdLif,
    HomeostaticLif,
    SelfPredictingLif,
    OscillatingLif,
    InhibitedLif,
    TernaryLif,
    IntegerLif>;

}  // namespace tgo
