"""Count what a trained network gets right, and show it. A new suite is one file in `suites` and one line in its list.

A layer imports only what stands below it:

    training.evaluate, export, compare, plots   commands
    page, publish                               what people read: HTML; Markdown, with the counts kept in the bundle
    documents                                   what one suite found, as a JSON file
    suites                                      one file a suite: its words, its computation, its tables, its figures
    suite, table                                what a suite is and works on; the accuracy tables of a bundle
    attack_checks, cache                        doubts about a figure; outcomes kept on disk
    inspection, counting                        a network's inside; outcomes: is each image classified correctly?
    judged, text_table                          the network; how tables look (figures and pages: oat_runtime.style)
"""
